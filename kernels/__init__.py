"""Triton kernels of tritonds and their launchers; nothing else. Imported as ``tritonds.kernels``, a link to this folder."""

__version__ = "0"
"""For transformers, which takes this folder for the library ``kernels`` where Python starts in a checkout."""
