"""From images to a batch, for every backend: memory formats, normalisation, images of different sizes, letterboxes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import geometry
from .dtypes import in_transform


class Letterboxed(NamedTuple):
    """A batch of images that kept their aspect, each in the middle of its part of the batch, and where it lies there."""

    images: Tensor
    """(N, C, h, w)"""
    mask: Tensor
    """(N, h, w), bool: True where the image lies, False on what is around it."""
    scale: Tensor
    """(N, 2), float32: pixels of the result per pixel of the image, along x and y. Below 1 where an image shrinks."""
    offset: Tensor
    """(N, 2), float32, in pixels: ``x' = x * scale + offset``. :func:`tritonds.labels.map_boxes` does this for boxes."""


def letterboxed(batch: Tensor, image: Tensor | Sequence[Tensor], size: tuple[int, int]) -> Letterboxed:
    """``batch``, made by letterboxing ``image`` to ``size``, with where each image lies in it."""
    sizes = [(x.shape[-2], x.shape[-1]) for x in image]
    places = [geometry.letterbox(size_in, size) for size_in in sizes]
    scale = [[w / in_w, h / in_h] for (in_h, in_w), ((h, w), _) in zip(sizes, places, strict=True)]
    offset = [[float(left), float(top)] for _, (top, left) in places]
    scales, offsets = (torch.tensor(x, dtype=torch.float32, device=batch.device).view(-1, 2) for x in (scale, offset))
    return Letterboxed(batch, _mask(places, size, batch.device), scales, offsets)


def _mask(places: list[tuple[tuple[int, int], tuple[int, int]]], size: tuple[int, int], device: torch.device) -> Tensor:
    """(N, h, w), True where the image lies: at each of ``places``, which are sizes and top left corners."""
    ends = torch.tensor([[top, top + h, left, left + w] for (h, w), (top, left) in places], device=device).view(-1, 4, 1)
    row, column = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
    rows = (row >= ends[:, 0]) & (row < ends[:, 1])
    columns = (column >= ends[:, 2]) & (column < ends[:, 3])
    return rows[:, :, None] & columns[:, None, :]


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format of what is computed from ``x``: channels-last if its pixels lie so, sliced or not."""
    last = x.stride(1) == 1 and not x.is_contiguous() and not in_transform()
    return torch.channels_last if last else torch.contiguous_format


def channels_last(x: Tensor) -> Tensor:
    """``x`` (N, C, H, W) in channels-last, which is fastest; inside torch.func's transforms as it is."""
    return x if in_transform() else x.contiguous(memory_format=torch.channels_last)


def memory_format_of_all(images: Sequence[Tensor]) -> torch.memory_format:
    """The memory format of a batch computed from ``images`` (C, H, W): channels-last if all of them lie so."""
    last = all(image.stride(0) == 1 and not image.is_contiguous() for image in images) and not in_transform()
    return torch.channels_last if last else torch.contiguous_format


def normalize(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, dtype: torch.dtype) -> Tensor:
    """(image - mean) / std of each channel, in ``dtype``; uint8 is divided by 255 before."""
    x = image.to(dtype)
    if image.dtype == torch.uint8:
        x = x / 255
    if mean is not None:
        x = x - x.new_tensor(mean).view(-1, 1, 1)
    if std is not None:
        x = x / x.new_tensor(std).view(-1, 1, 1)
    return x


def normalization_terms(
    image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Each channel's factor and summand: image * factor + summand is what :func:`normalize` gives. Empty if nothing changes."""
    if mean is None and std is None and image.dtype != torch.uint8:
        return [], []
    channels = image.shape[-3]
    mean, std = mean or [0.0] * channels, std or [1.0] * channels
    most = 255 if image.dtype == torch.uint8 else 1
    return [1 / (most * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def to_batch(
    image: Tensor | Sequence[Tensor],
    size: tuple[int, int],
    letterbox: bool,
    fill: float,
    resize: Callable[[Tensor, tuple[int, int]], Tensor],
) -> Tensor:
    """``resize`` of a batch (N, C, H, W), or of images (C, H, W) one by one: (N, C, h, w)."""
    if isinstance(image, Tensor) and (not letterbox or image.shape[0] == 0):
        return resize(image, size)
    results = []
    for x in image:
        (h, w), (top, left) = geometry.place((x.shape[1], x.shape[2]), size, letterbox)
        region = resize(x.unsqueeze(0), (h, w))
        results.append(F.pad(region, (left, size[1] - w - left, top, size[0] - h - top), value=fill))
    return torch.cat(results).contiguous(memory_format=memory_format_of_all(list(image)))
