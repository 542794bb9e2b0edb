"""Triton kernels of tritonds and their launchers; nothing else. Imported as ``tritonds.kernels``, a link to this folder."""

__version__ = "0"
"""Where Python starts beside this folder, transformers takes it for a package that it may use, and asks how new it is."""
