"""What the PyTorch operators call: a launcher for each, which writes into tensors that it is given."""

from . import area_pool, batch, fused, gather, launch, texture
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
    "area_pool",
    "area_pool2d",
    "area_pool2d_backward",
    "batch",
    "coefficients",
    "coefficients_backward",
    "downsize",
    "downsize_backward",
    "downsize_image",
    "downsize_image_backward",
    "fused",
    "gather",
    "launch",
    "texture",
    "weighted_gather2d",
    "weighted_gather2d_backward",
]
