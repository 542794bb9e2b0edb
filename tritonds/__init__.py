"""Learned image downsizing (DownsizeNet) as fused Triton kernels, a differentiable PyTorch op and a layer."""

from . import geometry, reference
from .functional import Letterboxed, area_pool2d, coefficients, downsize, downsize_image, weighted_gather2d
from .module import DownsizeNet
from .precompile import Warmup, warmup
from .reference import CoefficientWeights

__version__ = "0.1.0"

__all__ = [
    "CoefficientWeights",
    "DownsizeNet",
    "Letterboxed",
    "Warmup",
    "area_pool2d",
    "coefficients",
    "downsize",
    "downsize_image",
    "geometry",
    "reference",
    "warmup",
    "weighted_gather2d",
]
