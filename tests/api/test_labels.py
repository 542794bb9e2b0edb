"""Where an image is placed, its boxes and its label maps, against fractions and ``F.interpolate``."""

import itertools
import math
import re
import warnings
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tritonds
from tritonds.geometry import letterbox
from tritonds.labels import map_boxes, map_masks, map_points

LENGTHS = [1, 2, 3, 5, 8, 13, 40, 999]
SIZES = [(513, 179), (179, 513), *itertools.product(LENGTHS, repeat=2)]

size_strategy = st.tuples(st.integers(1, 600), st.integers(1, 600))


def under_centre(n_in, n_out):
    """The source pixel under the centre of each target pixel."""
    return [math.floor((j + Fraction(1, 2)) * n_in / n_out) for j in range(n_out)]


def rounded_half_up(x):
    return max(1, math.floor(x + Fraction(1, 2)))


def test_letterbox():
    for size_in, size_out in itertools.product(SIZES, repeat=2):
        region, offset = letterbox(size_in, size_out)
        ratio = min(Fraction(size_out[0], size_in[0]), Fraction(size_out[1], size_in[1]))
        assert region == (rounded_half_up(size_in[0] * ratio), rounded_half_up(size_in[1] * ratio))
        assert region[0] == size_out[0] or region[1] == size_out[1]
        for length, start, available in zip(region, offset, size_out, strict=True):
            after = available - length - start
            assert 0 <= start <= after <= start + 1


def test_letterbox_by_hand():
    assert letterbox((480, 640), (640, 640)) == ((480, 640), (80, 0))
    assert letterbox((640, 480), (640, 640)) == ((640, 480), (0, 80))
    assert letterbox((10, 20), (50, 60)) == ((30, 60), (10, 0))  # enlarged
    assert letterbox((4, 4), (5, 8)) == ((5, 5), (0, 1))  # an odd pixel more on the right
    assert letterbox((4, 2), (5, 9)) == ((5, 3), (0, 3))  # 2.5 rounds up
    assert letterbox((1, 1000), (10, 10)) == ((1, 10), (4, 0))  # at least one pixel
    assert letterbox([np.int64(7), 7], (7, 7)) == ((7, 7), (0, 0))


def test_boxes_by_hand(device):
    boxes = torch.tensor([[2.0, 3.0, 10.0, 9.0], [-4.0, 0.0, 50.0, 1.5]], device=device)
    wider = map_boxes(boxes, (12, 20), (6, 40))
    torch.testing.assert_close(wider, torch.tensor([[4.0, 1.5, 20.0, 4.5], [-8.0, 0.0, 100.0, 0.75]], device=device))
    boxed = map_boxes(boxes, (12, 20), (30, 40), letterbox=True)  # twice as large, 3 rows above it
    torch.testing.assert_close(boxed, torch.tensor([[4.0, 9.0, 20.0, 21.0], [-8.0, 3.0, 100.0, 6.0]], device=device))
    torch.testing.assert_close(map_boxes(boxed, (12, 20), (30, 40), letterbox=True, inverse=True), boxes)


@hypothesis.given(size_in=size_strategy, size_out=size_strategy, boxed=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_boxes_there_and_back(size_in, size_out, boxed, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, 3, 4, dtype=torch.float64, generator=generator) * 2000 - 700
    there = map_boxes(boxes, size_in, size_out, letterbox=boxed)
    back = map_boxes(there, size_in, size_out, letterbox=boxed, inverse=True)
    torch.testing.assert_close(back, boxes, rtol=1e-9, atol=1e-9)
    if not boxed:  # the way back is the way there of the sizes exchanged
        torch.testing.assert_close(map_boxes(there, size_out, size_in), boxes, rtol=1e-9, atol=1e-9)


@hypothesis.given(size_in=size_strategy, size_out=size_strategy)
def test_the_whole_image_is_the_whole_region(size_in, size_out):
    whole = torch.tensor([0, 0, size_in[1], size_in[0]], dtype=torch.float32)
    assert map_boxes(whole, size_in, size_out).tolist() == [0, 0, size_out[1], size_out[0]]
    (h, w), (top, left) = letterbox(size_in, size_out)
    expected = torch.tensor([left, top, left + w, top + h], dtype=torch.float32)
    assert torch.equal(map_boxes(whole, size_in, size_out, letterbox=True), expected)
    assert torch.equal(map_boxes(expected, size_in, size_out, letterbox=True, inverse=True), whole)


@pytest.mark.parametrize("scale", [(2, 3), (4, 1), (3, 5)])
def test_a_painted_rectangle_lies_where_its_box_is_mapped(scale, device):
    h, w = 6, 7
    size_in = (h * scale[0], w * scale[1])
    for (x1, x2), (y1, y2) in itertools.product([(0, 1), (2, 5), (0, w)], [(1, 3), (5, h), (0, h)]):
        box = torch.tensor([x1 * scale[1], y1 * scale[0], x2 * scale[1], y2 * scale[0]], dtype=torch.float32)
        left, top, right, bottom = box.int().tolist()
        image = torch.zeros(1, 1, *size_in, device=device)
        image[..., top:bottom, left:right] = 1
        small = tritonds.area_pool2d(image, (h, w), backend="torch")[0, 0]
        rows, columns = (small > 0.5).nonzero().T.tolist()
        extent = [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
        assert map_boxes(box, size_in, (h, w)).tolist() == extent
        assert small.sum().item() == pytest.approx((x2 - x1) * (y2 - y1))  # and no other pixel has a part of it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("inverse", [False, True])
def test_boxes_keep_dtype_and_are_rounded_once(dtype, inverse, device):
    boxes = (torch.rand(50, 4, dtype=torch.float64, device=device) * 400).to(dtype)
    sizes = ((333, 477), (101, 64))
    mapped = map_boxes(boxes, *sizes, letterbox=True, inverse=inverse)
    exact = map_boxes(boxes.double(), *sizes, letterbox=True, inverse=inverse)
    assert mapped.dtype == dtype
    assert mapped.device == boxes.device
    # Half an ulp of the result; in float32 four such steps, of values as large as the products on the way.
    ulps = 0.5 if dtype in (torch.float16, torch.bfloat16) else 4
    torch.testing.assert_close(mapped.double(), exact, rtol=1.01 * ulps * torch.finfo(dtype).eps, atol=1e-4)


def test_half_precision_boxes_do_not_overflow_on_the_way():
    whole = torch.tensor([0, 0, 1000, 1000], dtype=torch.float16)
    assert map_boxes(whole, (1000, 1000), (500, 500)).tolist() == [0, 0, 500, 500]


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 0, 4), (2, 3, 5, 4)])
def test_boxes_of_any_shape(shape):
    boxes = torch.rand(shape) * 9
    mapped = map_boxes(boxes, (9, 9), (5, 4), letterbox=True)
    assert mapped.shape == shape
    for one, other in zip(boxes.reshape(-1, 4), mapped.reshape(-1, 4), strict=True):
        assert torch.equal(map_boxes(one, (9, 9), (5, 4), letterbox=True), other)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("move", "count"), [(map_boxes, 4), (map_points, 2)])
def test_boxes_and_points_are_differentiable(move, count, inverse):
    given = torch.rand(3, count, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: move(x, (9, 8), (5, 7), letterbox=True, inverse=inverse), given)


def test_points_by_hand(device):
    points = torch.tensor([[[2.0, 3.0], [-4.0, 50.0]]], device=device)
    wider = map_points(points, (12, 20), (6, 40))
    torch.testing.assert_close(wider, torch.tensor([[[4.0, 1.5], [-8.0, 25.0]]], device=device))
    boxed = map_points(points, (12, 20), (24, 44), letterbox=True)  # twice as large, 2 columns left of it
    torch.testing.assert_close(boxed, torch.tensor([[[6.0, 6.0], [-6.0, 100.0]]], device=device))
    torch.testing.assert_close(map_points(boxed, (12, 20), (24, 44), letterbox=True, inverse=True), points)
    boxed = map_points(points, (12, 20), (28, 40), letterbox=True)  # and here 2 rows above it
    torch.testing.assert_close(boxed, torch.tensor([[[4.0, 8.0], [-8.0, 102.0]]], device=device))
    torch.testing.assert_close(map_points(boxed, (12, 20), (28, 40), letterbox=True, inverse=True), points)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2,), (0, 2), (3, 2, 2, 2)])
@pytest.mark.parametrize("inverse", [False, True])
@hypothesis.given(size_in=size_strategy, size_out=size_strategy, boxed=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_points_are_corners_of_boxes(inverse, shape, dtype, size_in, size_out, boxed, seed):
    points = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 600).to(dtype)
    mapped = map_points(points, size_in, size_out, letterbox=boxed, inverse=inverse)
    assert mapped.dtype == dtype
    boxes = map_boxes(torch.cat([points, points], dim=-1), size_in, size_out, letterbox=boxed, inverse=inverse)
    assert torch.equal(torch.cat([mapped, mapped], dim=-1), boxes)


@hypothesis.example(size_in=(513, 179), size_out=(179, 513))
@hypothesis.example(size_in=(1, 600), size_out=(600, 1))
@hypothesis.given(size_in=size_strategy, size_out=size_strategy)
def test_masks(size_in, size_out):
    numbers = torch.arange(size_in[0] * size_in[1], dtype=torch.float64).reshape(size_in)
    mapped = map_masks(numbers, size_out)
    rows, columns = under_centre(size_in[0], size_out[0]), under_centre(size_in[1], size_out[1])
    assert torch.equal(mapped, numbers[rows][:, columns])
    # Floating point is safe where a centre lies on no edge of source pixels: those nearest to one are 1 / 1200 pixels away.
    safe_rows = [j for j in range(size_out[0]) if (2 * j + 1) * size_in[0] % (2 * size_out[0])]
    safe_columns = [j for j in range(size_out[1]) if (2 * j + 1) * size_in[1] % (2 * size_out[1])]
    interpolated = F.interpolate(numbers[None, None], size=size_out, mode="nearest-exact")[0, 0]
    assert torch.equal(mapped[safe_rows][:, safe_columns], interpolated[safe_rows][:, safe_columns])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32])
@pytest.mark.parametrize("sizes", [((7, 9), (20, 20)), ((9, 7), (20, 20)), ((30, 11), (8, 9)), ((6, 8), (3, 4))])
def test_letterboxed_masks(sizes, dtype, device):
    size_in, size_out = sizes
    masks = torch.randint(0, 2, (2, 3, *size_in), device=device).to(dtype)
    fill = 1 if dtype == torch.bool else 100
    mapped = map_masks(masks, size_out, letterbox=True, fill=fill)
    (h, w), (top, left) = letterbox(size_in, size_out)
    assert mapped.shape == (2, 3, *size_out)
    assert (mapped.dtype, mapped.device) == (dtype, masks.device)
    inside = torch.zeros(size_out, dtype=torch.bool, device=device)
    inside[top : top + h, left : left + w] = True
    assert torch.equal(mapped[..., inside].reshape(2, 3, h, w), map_masks(masks, (h, w)))
    assert (mapped[..., ~inside] == fill).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(5, 6), (0, 5, 6), (3, 5, 6), (2, 1, 3, 5, 6)])
def test_masks_of_any_shape_and_dtype(shape, dtype, device):
    masks = torch.randint(0, 100, shape, device=device).to(dtype)
    mapped = map_masks(masks, (4, 9))
    assert mapped.shape == (*shape[:-2], 4, 9)
    assert (mapped.dtype, mapped.device) == (dtype, masks.device)
    assert torch.equal(mapped, masks[..., under_centre(5, 4), :][..., under_centre(6, 9)])


def test_non_contiguous_masks():
    masks = torch.randint(0, 100, (2, 3, 10, 12))
    for view in (
        masks.mT,
        masks[..., ::2, 1::3],
        masks.to(memory_format=torch.channels_last),
        masks[:, :1].expand(-1, 4, -1, -1),
    ):
        assert not view.is_contiguous()
        assert torch.equal(map_masks(view, (7, 8), letterbox=True), map_masks(view.contiguous(), (7, 8), letterbox=True))


def test_masks_do_not_share_memory():
    masks = torch.zeros(4, 4)
    map_masks(masks, (4, 4)).fill_(1)
    assert not masks.any()


def test_boxes_of_torchvisions_own_format():
    assert torch.equal(map_boxes(boxes_of_format("XYXY"), (7, 7), (14, 7)), map_boxes(BOXES, (7, 7), (14, 7)))


def test_one_number_is_a_square():
    assert letterbox(7, np.int64(9)) == letterbox((7, 7), (9, 9)) == letterbox(torch.tensor([7]), (torch.tensor(9), 9))
    assert torch.equal(map_masks(MASKS, 5), map_masks(MASKS, (5, 5)))


@pytest.mark.parametrize("fill", [-100, -100.0, np.int64(-100), Fraction(-200, 2)])
def test_fill_of_any_kind_of_number(fill):
    assert map_masks(torch.zeros(1, 2, dtype=torch.int64), (2, 2), letterbox=True, fill=fill).tolist() == [[0, 0], [-100, -100]]


@pytest.mark.parametrize("fill", [math.nan, -math.inf])
def test_fill_of_floating_point(fill):
    mapped = map_masks(torch.zeros(1, 2, dtype=torch.float16), (2, 2), letterbox=True, fill=fill)
    torch.testing.assert_close(mapped, torch.tensor([[0, 0], [fill, fill]], dtype=torch.float16), equal_nan=True)


@hypothesis.given(
    size_in=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size_out=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    boxed=st.booleans(),
    data=st.data(),
)
def test_masks_and_boxes_agree(size_in, size_out, boxed, data):
    """A labelled rectangle's pixels are those whose centres lie in its mapped box."""
    y1, x1 = (data.draw(st.integers(0, length - 1)) for length in size_in)
    y2, x2 = data.draw(st.integers(y1 + 1, size_in[0])), data.draw(st.integers(x1 + 1, size_in[1]))
    mask = torch.zeros(size_in, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    box = torch.tensor([x1, y1, x2, y2], dtype=torch.float64)
    left, top, right, bottom = map_boxes(box, size_in, size_out, letterbox=boxed).tolist()
    mapped = map_masks(mask, size_out, letterbox=boxed)
    # On an edge a centre may belong to either side, in floating point.
    for y, x in itertools.product(range(size_out[0]), range(size_out[1])):
        depth = min(x + 0.5 - left, right - x - 0.5, y + 0.5 - top, bottom - y - 0.5)
        if abs(depth) > 1e-9:
            assert mapped[y, x] == (depth > 0)


BOXES = torch.rand(5, 4)
MASKS = torch.zeros(2, 6, 7, dtype=torch.uint8)
PAIR = "expected a pair of integers (height, width), or one for both, got "
BELOW = "expected height and width of at least 1, got "


def boxes_of_format(name):
    """As torchvision's BoundingBoxes, which have their format beside them."""
    boxes = BOXES.clone()
    boxes.format = type("BoundingBoxFormat", (), {"name": name})
    return boxes


def nested(tensors):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype
        return torch.nested.nested_tensor(tensors)


def quantised(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is about to move it elsewhere
        return torch.quantize_per_tensor(x.float(), 1.0, 0, torch.quint8)


ERRORS = [
    (lambda: letterbox(7.0, (7, 7)), TypeError, f"size_in: {PAIR}7.0"),
    (lambda: letterbox((7, torch.tensor(7.0)), (7, 7)), TypeError, f"size_in: {PAIR}(7, tensor(7.))"),
    (lambda: letterbox((7, torch.tensor(True)), (7, 7)), TypeError, f"size_in: {PAIR}(7, tensor(True))"),
    (lambda: letterbox((torch.tensor([8, 9]), 7), (7, 7)), TypeError, f"size_in: {PAIR}(tensor([8, 9]), 7)"),
    (lambda: letterbox((np.bool_(True), 7), (7, 7)), TypeError, f"size_in: {PAIR}({np.bool_(True)!r}, 7)"),
    (lambda: letterbox((7, 7), (7, 7, 7)), TypeError, f"size_out: {PAIR}(7, 7, 7)"),
    (lambda: letterbox((7, 7.0), (7, 7)), TypeError, f"size_in: {PAIR}(7, 7.0)"),
    (lambda: letterbox((7, True), (7, 7)), TypeError, f"size_in: {PAIR}(7, True)"),
    (lambda: letterbox((7, 0), (7, 7)), ValueError, f"size_in: {BELOW}(7, 0)"),
    (lambda: letterbox((7, 7), (-1, 7)), ValueError, f"size_out: {BELOW}(-1, 7)"),
    (lambda: map_boxes([0, 0, 1, 1], (7, 7), (7, 7)), TypeError, "boxes: expected a torch.Tensor, got list"),
    (
        lambda: map_boxes(BOXES.to_sparse(), (7, 7), (7, 7)),
        TypeError,
        "boxes: expected a dense tensor, got layout torch.sparse_coo",
    ),
    (
        lambda: map_boxes(BOXES.int(), (7, 7), (7, 7)),
        TypeError,
        "boxes: expected float16, bfloat16, float32 or float64, got torch.int32; convert integers by boxes.float()",
    ),
    (
        lambda: map_boxes(BOXES.T, (7, 7), (7, 7)),
        ValueError,
        "boxes: expected shape (..., 4), of x1, y1, x2, y2, got (4, 5)",
    ),
    (
        lambda: map_boxes(torch.tensor(1.0), (7, 7), (7, 7)),
        ValueError,
        "boxes: expected shape (..., 4), of x1, y1, x2, y2, got ()",
    ),
    (lambda: map_boxes(BOXES, (7, 0), (7, 7)), ValueError, f"size_in: {BELOW}(7, 0)"),
    (lambda: map_boxes(BOXES, (7, 7), (0, 7)), ValueError, f"size_out: {BELOW}(0, 7)"),
    (lambda: map_boxes(BOXES, (7, 7), "7", letterbox=True), TypeError, f"size_out: {PAIR}'7'"),
    (
        lambda: map_boxes(torch.nested.nested_tensor([BOXES, BOXES[:2]], layout=torch.jagged), (7, 7), (7, 7)),
        TypeError,
        "boxes: expected a dense tensor, got layout torch.jagged",
    ),
    (
        lambda: map_boxes(boxes_of_format("XYWH"), (7, 7), (7, 7)),
        ValueError,
        "boxes: expected the format XYXY, got XYWH; convert them by torchvision first",
    ),
    (lambda: map_points([0, 0], (7, 7), (7, 7)), TypeError, "points: expected a torch.Tensor, got list"),
    (
        lambda: map_points(BOXES.int(), (7, 7), (7, 7)),
        TypeError,
        "points: expected float16, bfloat16, float32 or float64, got torch.int32; convert integers by points.float()",
    ),
    (lambda: map_points(BOXES, (7, 7), (7, 7)), ValueError, "points: expected shape (..., 2), of x, y, got (5, 4)"),
    (lambda: map_points(BOXES[:, :2], (7, 0), (7, 7)), ValueError, f"size_in: {BELOW}(7, 0)"),
    (lambda: map_masks(np.zeros((6, 7)), (7, 7)), TypeError, "masks: expected a torch.Tensor, got ndarray"),
    (lambda: map_masks(MASKS.to_sparse(), (7, 7)), TypeError, "masks: expected a dense tensor, got layout torch.sparse_coo"),
    (lambda: map_masks(MASKS[0, 0], (7, 7)), ValueError, "masks: expected shape (..., H, W), each at least 1, got (7,)"),
    (lambda: map_masks(MASKS[:, :0], (7, 7)), ValueError, "masks: expected shape (..., H, W), each at least 1, got (2, 0, 7)"),
    (
        lambda: map_masks(MASKS[..., :0], (7, 7)),
        ValueError,
        "masks: expected shape (..., H, W), each at least 1, got (2, 6, 0)",
    ),
    (lambda: map_masks(MASKS, 7.5), TypeError, f"size_out: {PAIR}7.5"),
    (
        lambda: map_masks(nested([MASKS[0], MASKS[0, :2]]), (7, 7)),
        TypeError,
        "masks: expected a dense tensor, got a nested one",
    ),
    (lambda: map_masks(quantised(MASKS), (7, 7)), TypeError, "masks: expected a dense tensor, got a quantised one"),
    (
        lambda: map_masks(MASKS.to(torch.float8_e4m3fn), (7, 7), fill=math.inf),
        ValueError,
        "fill: expected a value of torch.float8_e4m3fn, got inf",
    ),
    (lambda: map_masks(MASKS, (7, 0)), ValueError, f"size_out: {BELOW}(7, 0)"),
    (lambda: map_masks(MASKS, (7, 7), fill=None), TypeError, "fill: expected a number, got None"),
    (lambda: map_masks(MASKS, (7, 7), fill=-1), ValueError, "fill: expected a value of torch.uint8, got -1"),
    (lambda: map_masks(MASKS, (7, 7), fill=256), ValueError, "fill: expected a value of torch.uint8, got 256"),
    (lambda: map_masks(MASKS, (7, 7), fill=0.5), ValueError, "fill: expected a value of torch.uint8, got 0.5"),
    (lambda: map_masks(MASKS, (7, 7), fill=math.nan), ValueError, "fill: expected a value of torch.uint8, got nan"),
    (lambda: map_masks(MASKS.bool(), (7, 7), fill=255), ValueError, "fill: expected a value of torch.bool, got 255"),
    (
        lambda: map_masks(MASKS.half(), (7, 7), fill=10**400),
        ValueError,
        f"fill: expected a value of torch.float16, got {10**400}",
    ),
    (lambda: map_masks(MASKS.half(), (7, 7), fill=1e6), ValueError, "fill: expected a value of torch.float16, got 1000000.0"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
