"""Networks of one convolution on a CPU, strip by strip: no feature map of the whole image goes through memory.

The features of a strip of rows are pooled over rows while caches hold them. At the end they are pooled over columns. The result
is the network's up to rounding, without its normalisation: coefficients sum to 1, so the raw pixels are summed instead.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import functional, reference
from .batches import channels_last, normalize
from .module import DownsizeNet

ROWS = 32
"""Rows of the image in a strip. Of 1920 columns, their features take 4 MB."""


def can_downsize(net: DownsizeNet) -> bool:
    """Whether the network's texture is one convolution."""
    return net.texture is not None and net.texture_layers == 1


def downsize(net: DownsizeNet, image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (1, C, h, w) of float32 between 0 and 1, whether the network normalises or not.

    Args:
        net: one that :func:`can_downsize`, in float32, on the CPU.
        image: (1, C, H, W), uint8, or float32 between 0 and 1; channels-last is fastest.
        size: (h, w) in pixels.
    """
    height, width = image.shape[2:]
    of_this_size = torch.empty(1).expand(1, 1, height, width)  # coefficients read the size of an image, and no pixel
    texture = _pooled_texture(net, image, size)
    coefficients = functional.coefficients(
        of_this_size, texture, net.weights(), size, taps=net.taps, prior=net.prior, backend="torch"
    )
    result = functional.weighted_gather2d(image.float(), coefficients, size, taps=net.taps, backend="torch")
    return result / 255 if image.dtype == torch.uint8 else result


def _pooled_texture(net: DownsizeNet, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean features of each target pixel's bin: (1, F, h, w)."""
    convolution = cast(nn.Conv2d, cast(nn.Sequential, net.texture)[0])
    weight, bias = channels_last(convolution.weight), convolution.bias
    height, width = image.shape[2:]
    pooled = torch.zeros(size[0], width * weight.shape[0])
    for first in range(0, height, ROWS):
        end = min(first + ROWS, height)
        top = max(first - 1, 0)  # a row more on either side, for the convolution
        strip = normalize(image[:, :, top : end + 1], net.mean, net.std, torch.float32)
        features = F.conv2d(channels_last(strip), weight, bias, padding=1).relu_()
        features = features[0, :, first - top : end - top].permute(1, 2, 0).flatten(1)  # [rows, width * F]
        j, shares = _shares(first, end, height, size[0])
        pooled[j : j + len(shares)] += shares @ features
    return functional.area_pool2d(pooled.view(1, size[0], width, -1).permute(0, 3, 1, 2), size, backend="torch")


def _shares(first: int, end: int, n_in: int, n_out: int) -> tuple[int, Tensor]:
    """The first target row whose bin overlaps source rows ``first`` to ``end``, and their shares of each bin from it on."""
    j_first, j_last = first * n_out // n_in, (end * n_out - 1) // n_in
    i = torch.arange(first, end)
    j = torch.arange(j_first, j_last + 1)[:, None]
    return j_first, reference.bin_share(i, j, n_in, n_out, torch.float32)
