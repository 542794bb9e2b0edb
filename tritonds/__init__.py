"""Learned image downsizing (DownsizeNet) as fused Triton kernels, a differentiable PyTorch op and a layer."""

from . import geometry, labels, ops, reference
from .batches import Letterboxed
from .coefficient_weights import CoefficientWeights
from .functional import area_pool2d, coefficients, downsize, downsize_image, weighted_gather2d
from .module import DownsizeNet
from .precompile import Warmup, warmup

if ops.HAS_TRITON:
    # FLOP formulas have to be registered before a counter is made. Without Triton there is nothing to count.
    from . import flops  # noqa: F401

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
    "labels",
    "reference",
    "warmup",
    "weighted_gather2d",
]
