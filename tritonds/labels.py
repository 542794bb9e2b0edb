"""Labels that move with an image: boxes, points and label maps, of resized and of letterboxed images."""

import torch
from torch import Tensor

from .checks import check_bool, check_dense, check_label
from .dtypes import DTYPES, compute_dtype
from .geometry import check_size, first_tap, place


def map_boxes(
    boxes: Tensor, size_in: tuple[int, int], size_out: tuple[int, int], *, letterbox: bool = False, inverse: bool = False
) -> Tensor:
    """Boxes of an image, where they lie in the resized image; or the way back.

    ``x' = x * w / W`` and ``y' = y * h / H``. Letterboxed, h and w are the region's size, and its corner is added.

    Args:
        boxes: (..., 4), x1, y1, x2, y2 in pixels; float16, bfloat16, float32 or float64. Coordinates are of edges, not of
            centres: pixel i spans i to i + 1, and the whole image is (0, 0, W, H). No boxes, (0, 4), are fine.
        size_in: (H, W) of the image, in pixels, each at least 1.
        size_out: (h, w) of the resized image; letterboxed, with what is around it.
        letterbox: whether the image is placed as :func:`tritonds.geometry.letterbox` says, else stretched to ``size_out``.
        inverse: map boxes of the resized image, such as a detector's, to the image of ``size_in``.

    Returns:
        (..., 4) of the dtype and on the device of ``boxes``. Not clipped: a box that reaches beyond the image still does.

    Raises:
        TypeError: boxes that are no tensor of a dtype above; a size that is no pair of integers; letterbox or inverse that is
            neither True nor False.
        ValueError: a last dimension that is not 4; a size below 1; torchvision's BoundingBoxes of a format other than XYXY.

    Computed in float32 (float64 for float64), and rounded once to half precision, which tells no neighbouring pixels apart
    above 2,048 (float16) or 256 (bfloat16). Differentiable in ``boxes``.

    Source: torchvision's "XYXY" boxes, and its ratio of sizes when resizing; letterbox and inverse are ours.

    >>> map_boxes(torch.tensor([[0.0, 0.0, 640.0, 480.0]]), (480, 640), (224, 224), letterbox=True)
    tensor([[  0.,  28., 224., 196.]])
    """
    check_dense("boxes", boxes)
    # torchvision's BoundingBoxes, without importing it.
    form = getattr(getattr(boxes, "format", None), "name", "XYXY")
    if form != "XYXY":
        raise ValueError(f"boxes: expected the format XYXY, got {form}; convert them by torchvision first")
    _check_coordinates("boxes", boxes, 4, "x1, y1, x2, y2")
    return _moved(boxes.unflatten(-1, (2, 2)), size_in, size_out, letterbox, inverse).flatten(-2)


def map_points(
    points: Tensor, size_in: tuple[int, int], size_out: tuple[int, int], *, letterbox: bool = False, inverse: bool = False
) -> Tensor:
    """Points of an image, such as keypoints and corners of polygons, where they lie in the resized image; or the way back.

    As :func:`map_boxes` moves a box's corners, to which it is equal bit for bit.

    Args:
        points: (..., 2), x, y in pixels; float16, bfloat16, float32 or float64. Pixel i spans i to i + 1, with its centre at
            i + 1/2: where centres are whole numbers, add 1/2 before, and subtract it afterwards. No points, (0, 2), are fine.
        size_in: (H, W) of the image; likewise size_out, letterbox and inverse, as in :func:`map_boxes`.

    Returns:
        (..., 2) of the dtype and on the device of ``points``, not clipped. Precision and gradients as of :func:`map_boxes`.

    Raises:
        TypeError: points that are no tensor of a dtype above; a size that is no pair of integers.
        ValueError: a last dimension that is not 2; a size below 1.

    Source: torchvision's KeyPoints, and its ratio of sizes when resizing; letterbox and inverse are ours.

    >>> map_points(torch.tensor([[320.0, 240.0]]), (480, 640), (224, 224), letterbox=True)
    tensor([[112., 112.]])
    """
    check_dense("points", points)
    _check_coordinates("points", points, 2, "x, y")
    return _moved(points, size_in, size_out, letterbox, inverse)


def _check_coordinates(name: str, x: Tensor, count: int, order: str) -> None:
    """Raise unless ``x`` has so many coordinates in its last dimension, of a floating dtype."""
    if x.dtype not in DTYPES:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}; convert integers by {name}.float()"
        )
    if x.dim() < 1 or x.shape[-1] != count:
        raise ValueError(f"{name}: expected shape (..., {count}), of {order}, got {tuple(x.shape)}")


def _moved(points: Tensor, size_in: tuple[int, int], size_out: tuple[int, int], letterbox: bool, inverse: bool) -> Tensor:
    """Where ``points`` (..., 2), x and y, of the image lie in the result; or the way back."""
    letterbox, inverse = check_bool("letterbox", letterbox), check_bool("inverse", inverse)
    in_h, in_w = check_size("size_in", size_in)
    (region_h, region_w), (top, left) = place((in_h, in_w), check_size("size_out", size_out), letterbox)
    x, y = points.to(compute_dtype(points.dtype)).unbind(-1)
    # The product first: mostly a whole number, so that edges of whole pixels stay whole where the division rounds to nearest.
    if inverse:
        x, y = (x - left) * in_w / region_w, (y - top) * in_h / region_h
    else:
        x, y = x * region_w / in_w + left, y * region_h / in_h + top
    return torch.stack((x, y), dim=-1).to(points.dtype)


def map_masks(masks: Tensor, size_out: tuple[int, int], *, letterbox: bool = False, fill: float = 0) -> Tensor:
    """Label maps of an image, resized with it: each target pixel has the label of the source pixel under its centre.

    ``y[..., j_y, j_x] = masks[..., i_y, i_x]``, ``i = floor((j + 1/2) * n_in / n_out)`` on each axis: never a label that was
    not there, as a mean would be.

    Args:
        masks: (..., H, W), any strides and any dtype: bool, class or instance numbers, floating point.
        size_out: (h, w) of the result, in pixels, each at least 1.
        letterbox: whether to place it as :func:`tritonds.geometry.letterbox` says, else to stretch it to ``size_out``.
        fill: the label of what is around a letterboxed image, such as the number that a loss ignores. The dtype must hold it.

    Returns:
        (..., h, w) of the dtype and on the device of ``masks``.

    Raises:
        TypeError: masks that are no dense tensor; a size that is no pair of integers; a fill that is no number; a letterbox
            that is neither True nor False.
        ValueError: fewer than 2 dimensions; a height, width or size below 1; a fill that the dtype does not hold.

    Source: ``F.interpolate(mode="nearest-exact")``, in integers, by :func:`tritonds.geometry.first_tap`; letterbox and fill
    are ours.

    >>> map_masks(torch.tensor([[0, 1, 2, 3]]), (3, 2), letterbox=True, fill=255).tolist()
    [[255, 255], [1, 3], [255, 255]]
    """
    check_dense("masks", masks)
    if masks.dim() < 2 or masks.shape[-2] < 1 or masks.shape[-1] < 1:
        raise ValueError(f"masks: expected shape (..., H, W), each at least 1, got {tuple(masks.shape)}")
    letterbox = check_bool("letterbox", letterbox)
    fill = check_label(fill, masks.dtype)
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
