"""Measurements of tritonds: compiled kernels, speed, accuracy. Run from the repository's root."""
