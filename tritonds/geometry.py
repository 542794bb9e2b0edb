"""Integer geometry shared by every backend: which source pixels a target pixel reads; and labels, which move with the image.

Along one axis with ``n_in`` source and ``n_out`` target pixels, half-pixel centres put target pixel ``j`` at the source
coordinate ``u = ((2j + 1) * n_in - n_out) / (2 * n_out)``. What is read is computed from that fraction, in exact integers. In
floating point ``floor(u)`` flips where ``u`` is a whole number (513 -> 179 at ``j = 89``), and two backends would read
different pixels.

The functions of integers, :func:`first_tap` to :func:`windows_starting_by`, use operators alone, so the same source serves
Python integers, torch tensors and, compiled by ``triton.jit``, the kernels. Every dividend is kept non-negative: ``//`` floors
in Python and truncates in a Triton kernel.

:func:`letterbox`, :func:`map_boxes` and :func:`map_masks` are for what goes with an image into a network: where it is placed,
its boxes, its label maps.

Source: half-pixel centres and the fractional bins are our reading of the method's poster, which fixes neither.
"""

import math
import numbers
import operator

import torch
from torch import Tensor


def first_tap(j, n_in, n_out, taps):
    """First source pixel of the ``taps`` read by target pixel ``j``, before clamping (it may be negative).

    >>> [first_tap(j, 4, 2, 2) for j in range(2)]
    [0, 2]
    """
    return ((2 * j + 1) * n_in + (1 - taps % 2) * n_out) // (2 * n_out) - taps // 2


def distance_numerator(i, j, n_in, n_out):
    """Signed distance from target ``j`` to source pixel ``i``, in units of ``1 / (2 * n_out)`` source pixels.

    >>> distance_numerator(1, 0, 4, 2) / (2 * 2)
    0.5
    """
    return (2 * i + 1) * n_out - (2 * j + 1) * n_in


def bin_first(j, n_in, n_out):
    """First source pixel that overlaps the bin ``[j * n_in / n_out, (j + 1) * n_in / n_out)``.

    >>> [bin_first(j, 5, 2) for j in range(2)]
    [0, 2]
    """
    return j * n_in // n_out


def bin_last(j, n_in, n_out):
    """Last source pixel that overlaps bin ``j``.

    >>> [bin_last(j, 5, 2) for j in range(2)]
    [2, 4]
    """
    return ((j + 1) * n_in - 1) // n_out


def bin_width(n_in, n_out):
    """Upper bound on the source pixels that one bin overlaps; exact when ``n_in`` and ``n_out`` share no divisor.

    >>> bin_width(4, 2), bin_width(5, 2), bin_width(2, 5)
    (2, 3, 2)
    """
    return n_in // n_out if n_in % n_out == 0 else (n_in - 2) // n_out + 2


def windows_starting_by(i, n_in, n_out, taps):
    """How many target pixels ``j >= 0`` have ``first_tap(j) <= i``, were the target endless: clamp to ``n_out``.

    Those are ``0 .. count - 1``, since first taps never decrease.

    >>> [windows_starting_by(i, 4, 2, 2) for i in (-1, 0, 1, 2)]
    [0, 1, 1, 2]
    """
    # first_tap(j) <= i  <=>  (2j + 1) * n_in < n_out * (2i + taps + 1)
    excess = n_out * (2 * i + taps + 1) - n_in
    return (excess * (excess > 0) + 2 * n_in - 1) // (2 * n_in)


def letterbox(size_in: tuple[int, int], size_out: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an image lies that is resized to fit within ``size_out``, its aspect kept, and centred.

    One axis is filled. The other is its length times the same ratio, rounded to the nearest pixel, half a pixel upwards, and
    at least 1.

    Args:
        size_in: (H, W) of the image, in pixels, each at least 1.
        size_out: (h, w) of what it has to fit in, likewise. A small image is enlarged.

    Returns:
        region: (height, width) to resize the image to, in pixels; never larger than ``size_out``.
        offset: (top, left), the pixels above and to the left of the region. Where what is left over is odd, the pixel more is
            at the bottom or on the right.

    Raises:
        TypeError: a size that is no pair of integers.
        ValueError: a size below 1.

    Source: the letterbox of object detectors; rounding, and computing it in integers, are our choice.

    >>> letterbox((480, 640), (224, 224))
    ((168, 224), (28, 0))
    """
    in_h, in_w = check_size("size_in", size_in)
    out_h, out_w = check_size("size_out", size_out)
    if out_h * in_w <= out_w * in_h:  # height fills: in_w * out_h / in_h is at most out_w, and so is what it rounds to
        region_h, region_w = out_h, max(1, (2 * in_w * out_h + in_h) // (2 * in_h))
    else:
        region_h, region_w = max(1, (2 * in_h * out_w + in_w) // (2 * in_w)), out_w
    return (region_h, region_w), ((out_h - region_h) // 2, (out_w - region_w) // 2)


def map_boxes(
    boxes: Tensor, size_in: tuple[int, int], size_out: tuple[int, int], *, letterbox: bool = False, inverse: bool = False
) -> Tensor:
    """Boxes of an image, where they lie in the resized image; or the way back.

    ``x' = x * w / W`` and ``y' = y * h / H``. Letterboxed, h and w are the region's size, and its offset is added.

    Args:
        boxes: (..., 4), x1, y1, x2, y2 in pixels; float16, bfloat16, float32 or float64. Coordinates are of edges, not of
            centres: pixel i spans i to i + 1, and the whole image is (0, 0, W, H). No boxes, (0, 4), are fine.
        size_in: (H, W) of the image, in pixels, each at least 1.
        size_out: (h, w) of the resized image; letterboxed, with what is around it.
        letterbox: whether the image is placed as :func:`letterbox` says, else stretched to ``size_out``.
        inverse: map boxes of the resized image, such as a detector's, to the image of ``size_in``.

    Returns:
        (..., 4) of the dtype and on the device of ``boxes``. Not clipped: a box that reaches beyond the image still does.

    Raises:
        TypeError: boxes that are no tensor of a dtype above; a size that is no pair of integers.
        ValueError: a last dimension that is not 4; a size below 1.

    Computed in float32 (float64 for float64), and rounded once to half precision, which tells no neighbouring pixels apart
    above 2,048 (float16) or 256 (bfloat16). Differentiable in ``boxes``.

    Source: torchvision's "XYXY" boxes, and its ratio of sizes when resizing; letterbox and inverse are ours.

    >>> map_boxes(torch.tensor([[0.0, 0.0, 640.0, 480.0]]), (480, 640), (224, 224), letterbox=True)
    tensor([[  0.,  28., 224., 196.]])
    """
    check_dense("boxes", boxes)
    if boxes.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(
            f"boxes: expected float16, bfloat16, float32 or float64, got {boxes.dtype}; convert integers by boxes.float()"
        )
    if boxes.dim() < 1 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes: expected shape (..., 4), of x1, y1, x2, y2, got {tuple(boxes.shape)}")
    in_h, in_w = check_size("size_in", size_in)
    (region_h, region_w), (top, left) = place((in_h, in_w), check_size("size_out", size_out), letterbox)
    work = boxes if boxes.dtype == torch.float64 else boxes.float()
    x, y = work[..., 0::2], work[..., 1::2]
    # The product first: mostly a whole number, so that edges of whole pixels stay whole where the division rounds to nearest.
    if inverse:
        x, y = (x - left) * in_w / region_w, (y - top) * in_h / region_h
    else:
        x, y = x * region_w / in_w + left, y * region_h / in_h + top
    return torch.stack((x, y), dim=-1).flatten(-2).to(boxes.dtype)


def map_masks(masks: Tensor, size_out: tuple[int, int], *, letterbox: bool = False, fill: float = 0) -> Tensor:
    """Label maps of an image, resized with it: each target pixel has the label of the source pixel under its centre.

    ``y[..., j_y, j_x] = masks[..., i_y, i_x]``, ``i = floor((j + 1/2) * n_in / n_out)`` on each axis: never a label that was
    not there, as a mean would be.

    Args:
        masks: (..., H, W), any strides and any dtype: bool, class or instance numbers, floating point.
        size_out: (h, w) of the result, in pixels, each at least 1.
        letterbox: whether to place it as :func:`letterbox` says, else to stretch it to ``size_out``.
        fill: the label of what is around a letterboxed image, such as the number that a loss ignores. The dtype must hold it.

    Returns:
        (..., h, w) of the dtype and on the device of ``masks``.

    Raises:
        TypeError: masks that are no dense tensor; a size that is no pair of integers; a fill that is no number.
        ValueError: fewer than 2 dimensions; a height, width or size below 1; a fill that the dtype does not hold.

    Source: ``F.interpolate(mode="nearest-exact")``, by :func:`first_tap` in integers; letterbox and fill are ours.

    >>> map_masks(torch.tensor([[0, 1, 2, 3]]), (3, 2), letterbox=True, fill=255).tolist()
    [[255, 255], [1, 3], [255, 255]]
    """
    check_dense("masks", masks)
    if masks.dim() < 2 or masks.shape[-2] < 1 or masks.shape[-1] < 1:
        raise ValueError(f"masks: expected shape (..., H, W), each at least 1, got {tuple(masks.shape)}")
    _check_fill(fill, masks.dtype)
    (in_h, in_w), size_out = masks.shape[-2:], check_size("size_out", size_out)
    (region_h, region_w), (top, left) = place((in_h, in_w), size_out, letterbox)
    # One tap is under the target pixel's centre, so never outside the image: nothing to clamp.
    rows = first_tap(torch.arange(region_h, device=masks.device), in_h, region_h, taps=1)
    columns = first_tap(torch.arange(region_w, device=masks.device), in_w, region_w, taps=1)
    region = masks[..., rows[:, None], columns]
    if (region_h, region_w) == size_out:
        return region
    placed = masks.new_full((*masks.shape[:-2], *size_out), fill)
    placed[..., top : top + region_h, left : left + region_w] = region
    return placed


def place(size_in: tuple[int, int], size_out: tuple[int, int], keep_aspect: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Region and offset of a resized image, letterboxed or stretched."""
    return letterbox(size_in, size_out) if keep_aspect else (size_out, (0, 0))


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """``size`` as two integers; those of other libraries, such as NumPy, are converted."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"{name}: expected a pair of integers (height, width), got {size!r}")
    for value in size:
        if isinstance(value, bool) or not (isinstance(value, (int, torch.SymInt)) or hasattr(value, "__index__")):
            raise TypeError(f"{name}: expected a pair of integers (height, width), got {size!r}")
        if value < 1:
            raise ValueError(f"{name}: expected height and width of at least 1, got {tuple(size)}")
    h, w = (value if isinstance(value, (int, torch.SymInt)) else operator.index(value) for value in size)
    return h, w


def check_dense(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}")


def _check_fill(fill: float, dtype: torch.dtype) -> None:
    """Raise unless ``dtype`` holds ``fill``: PyTorch would make 255 of -1 in uint8, and True of 255 in bool."""
    if not isinstance(fill, numbers.Real):
        raise TypeError(f"fill: expected a number, got {fill!r}")
    if dtype.is_floating_point or dtype.is_complex:
        fits = not torch.finfo(dtype).max < abs(fill) < math.inf
    else:
        low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        fits = low <= fill <= high and fill == int(fill)
    if not fits:
        raise ValueError(f"fill: expected a value of {dtype}, got {fill!r}")
