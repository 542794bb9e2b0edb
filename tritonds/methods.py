"""Every way of resizing that is compared anywhere, under one name each.

The learned methods without weights are untrained networks with four taps and the antialiasing prior: up to a scale of 2 they
equal bilinear-aa, and training only adds to that.
"""

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .functional import Letterboxed, area_pool2d
from .module import DownsizeNet

Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""From images (N, C, H, W) and (h, w) to images (N, C, h, w)."""

INTERPOLATIONS: dict[str, Resize] = {
    "bilinear": lambda image, size: F.interpolate(image, size, mode="bilinear"),
    "bilinear-aa": lambda image, size: F.interpolate(image, size, mode="bilinear", antialias=True),
    "bicubic-aa": lambda image, size: F.interpolate(image, size, mode="bicubic", antialias=True),
    "area": area_pool2d,
}

NETWORKS: dict[str, Callable[..., DownsizeNet]] = {
    "texture-only": partial(DownsizeNet, taps=4, prior="antialias", distance_channels=0),
    "distance-only": partial(DownsizeNet, taps=4, prior="antialias", texture_channels=0),
    "downsizenet": partial(DownsizeNet, taps=4, prior="antialias"),
}

NAMES = (*INTERPOLATIONS, *NETWORKS)


def get(name: str, weights: str | PathLike[str] | None = None) -> Resize:
    """The method called ``name``; ``weights``, a file of :meth:`DownsizeNet.save`, trains a learned one.

    Raises:
        ValueError: an unknown name; weights for a method that learns nothing, or of another kind of network.

    >>> import torch
    >>> get("area")(torch.ones(1, 3, 8, 8), (3, 5)).shape
    torch.Size([1, 3, 3, 5])
    """
    if name in NETWORKS:
        return network(name, weights)
    if name not in INTERPOLATIONS:
        raise ValueError(f"method: expected one of {NAMES}, got {name!r}")
    if weights is not None:
        raise ValueError(f"weights: method {name!r} learns nothing and takes none")
    return INTERPOLATIONS[name]


def network(name: str, weights: str | PathLike[str] | None = None) -> DownsizeNet:
    """The network of a learned method, in evaluation mode and float32; its results are pictures, even if it normalises."""
    net = NETWORKS[name]()
    if weights is not None:
        loaded = DownsizeNet.load(weights)
        kind = (net.texture_channels > 0, net.distance_channels > 0)
        if (loaded.texture_channels > 0, loaded.distance_channels > 0) != kind:
            raise ValueError(f"weights: {weights} holds another kind of network than {name!r}")
        if loaded.in_channels != net.in_channels:
            raise ValueError(f"weights: {weights} is for images of {loaded.in_channels} channels, not {net.in_channels}")
        net = loaded.float()
        net.out_dtype = None
        net.register_forward_hook(_undo_normalization)
    return net.eval().requires_grad_(False)


def _undo_normalization(net: DownsizeNet, _: Any, result: Any) -> Any:
    """A picture again: the coefficients sum to 1, so that mean and deviation pass through the network unchanged."""
    if isinstance(result, Letterboxed):
        return result._replace(images=_undo_normalization(net, _, result.images))
    if net.std is not None:
        result = result * result.new_tensor(net.std).view(-1, 1, 1)
    if net.mean is not None:
        result = result + result.new_tensor(net.mean).view(-1, 1, 1)
    return result
