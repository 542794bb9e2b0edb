"""Triton kernels of tritonds and their launchers; nothing else. Imported as ``tritonds.kernels``."""

if __name__ != "tritonds.kernels":
    raise ImportError(
        f"these kernels are the package 'tritonds.kernels', but were imported as {__name__!r}; "
        "install tritonds (pip install -e .) and import tritonds"
    )

from .area_pool import area_pool2d, area_pool2d_backward
from .fused import (
    coefficients,
    coefficients_backward,
    downsize,
    downsize_backward,
    downsize_image,
    downsize_image_backward,
)
from .gather import weighted_gather2d, weighted_gather2d_backward

__all__ = [
    "area_pool2d",
    "area_pool2d_backward",
    "coefficients",
    "coefficients_backward",
    "downsize",
    "downsize_backward",
    "downsize_image",
    "downsize_image_backward",
    "weighted_gather2d",
    "weighted_gather2d_backward",
]
