"""Learned image downsizing (DownsizeNet) as fused Triton kernels, a differentiable PyTorch op and a layer."""

from . import geometry, reference
from .functional import area_pool2d, coefficients, downsize, weighted_gather2d
from .module import DownsizeNet
from .reference import CoefficientWeights

__version__ = "0.1.0"

__all__ = [
    "CoefficientWeights",
    "DownsizeNet",
    "area_pool2d",
    "coefficients",
    "downsize",
    "geometry",
    "reference",
    "weighted_gather2d",
]
