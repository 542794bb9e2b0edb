"""Every way of resizing that is compared anywhere, under one name each.

Interpolations learn nothing. The networks that the package holds are called like their weights. ``natural-k2`` and
``natural-k4`` are convex, as on the poster. ``natural-k8`` and ``natural-k8-lite``, without texture, may sharpen. The
poster's ablations, ``texture-only`` and ``distance-only``, are untrained unless weights are given. They have four taps and the
antialiasing prior, so up to a scale of 2 the untrained ones equal bilinear-aa.

Architectures are networks to be trained. Their names say kind, taps, and the prior where it sharpens. They have one convolution
or none, one hidden layer, and 16 channels.
"""

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from . import pretrained
from .batches import Letterboxed
from .functional import area_pool2d
from .module import DownsizeNet

Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""A function from images (N, C, H, W) and (h, w) to images (N, C, h, w)."""

INTERPOLATIONS: dict[str, Resize] = {
    "bilinear": lambda image, size: F.interpolate(image, size, mode="bilinear"),
    "bilinear-aa": lambda image, size: F.interpolate(image, size, mode="bilinear", antialias=True),
    "bicubic-aa": lambda image, size: F.interpolate(image, size, mode="bicubic", antialias=True),
    "area": area_pool2d,
}

PEERS: dict[str, Resize] = {"nearest": lambda image, size: F.interpolate(image, size, mode="nearest-exact")}
"""Methods for comparison alone, which :func:`get` does not offer."""

_K4 = partial(DownsizeNet, taps=4, prior="antialias")
_K8 = partial(DownsizeNet, taps=8, prior="bicubic")
ARCHITECTURES: dict[str, Callable[..., DownsizeNet]] = {
    "texture-only-k4": partial(_K4, distance_channels=0),
    "distance-only-k4": partial(_K4, texture_channels=0),
    "downsizenet-k2": partial(DownsizeNet, taps=2, prior="bilinear"),
    "downsizenet-k4": _K4,
    "distance-only-k8-bicubic": partial(_K8, texture_channels=0),
    "distance-only-k8-lanczos": partial(_K8, prior="lanczos", texture_channels=0),
    "downsizenet-k8-bicubic": _K8,
}
UNTRAINED = {"texture-only": ARCHITECTURES["texture-only-k4"], "distance-only": ARCHITECTURES["distance-only-k4"]}
_SHIPPED = ("downsizenet-k2", "downsizenet-k4", "downsizenet-k8-bicubic", "distance-only-k8-bicubic")
SHIPPED = dict(zip(pretrained.SHIPPED, _SHIPPED, strict=True))
"""Methods whose weights the package holds under the same names, and their architectures."""
NETWORKS = (*UNTRAINED, *SHIPPED)
NAMES = (*INTERPOLATIONS, *NETWORKS)
"""What :func:`get` takes, beside :data:`OWN`."""
OWN = "downsizenet"
"""The method whose weights the caller brings."""
DEFAULT = "natural-k4"


def get(name: str, weights: str | PathLike[str] | None = None) -> Resize:
    """The method called ``name``, one of :data:`NAMES`, or "downsizenet" with ``weights``.

    Args:
        weights: what :meth:`DownsizeNet.from_pretrained` takes; for "downsizenet", "texture-only" and "distance-only".

    Raises:
        OSError, ValueError: as :meth:`DownsizeNet.from_pretrained`.
        ValueError: an unknown name; weights for a method that takes none, or of another kind of network; no weights for
            "downsizenet".

    >>> import torch
    >>> get("area")(torch.ones(1, 3, 8, 8), (3, 5)).shape
    torch.Size([1, 3, 3, 5])
    """
    if name in NETWORKS or name == OWN:
        return network(name, weights)
    if name not in INTERPOLATIONS:
        raise ValueError(f"method: expected one of {(*NAMES, OWN)}, got {name!r}")
    if weights is not None:
        raise ValueError(f"weights: method {name!r} learns nothing and takes none")
    return INTERPOLATIONS[name]


def network(name: str, weights: str | PathLike[str] | None = None) -> DownsizeNet:
    """The network of a learned method, in evaluation mode and float32. Its normalisation is undone, so results are pictures."""
    if name in SHIPPED and weights is not None:
        raise ValueError(f"weights: method {name!r} has its own; with others the method is {OWN!r}")
    if name == OWN and weights is None:
        raise ValueError(f"weights: method {OWN!r} needs some; {tuple(SHIPPED)} have their own")
    source = name if name in SHIPPED else weights
    if source is None:
        net = UNTRAINED[name]()
    else:
        net = DownsizeNet.from_pretrained(source).float()
        _check_kind(name, net, source)
    net.out_dtype = None
    net.register_forward_hook(_undo_normalization)
    return net.eval().requires_grad_(False)


def _check_kind(name: str, net: DownsizeNet, weights: str | PathLike[str]) -> None:
    """Raise ValueError if the network that ``weights`` hold is not what ``name`` says, for RGB images."""
    kind = (net.texture_channels > 0, net.distance_channels > 0)
    if name in UNTRAINED and kind != (name != "distance-only", name != "texture-only"):
        raise ValueError(f"weights: {weights} holds another kind of network than {name!r}")
    if net.in_channels != 3:
        raise ValueError(f"weights: {weights} is for images of {net.in_channels} channels, not 3")


def _undo_normalization(net: DownsizeNet, _: Any, result: Any) -> Any:
    """The result as a picture. The coefficients sum to 1, so mean and deviation pass through the network unchanged."""
    if isinstance(result, Letterboxed):
        return result._replace(images=_undo_normalization(net, _, result.images))
    if net.std is not None:
        result = result * result.new_tensor(net.std).view(-1, 1, 1)
    if net.mean is not None:
        result = result + result.new_tensor(net.mean).view(-1, 1, 1)
    return result
