"""The transform of torchvision.transforms.v2: images against the layer and the oracle in float64, labels against v2's own."""

import importlib
import random
import subprocess
import sys

import oracle
import pytest
import torch
import torch.nn.functional as F
from cases import MEAN, STD, error, net_of
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import tritonds
from tritonds import geometry, labels
from tritonds.transforms import Downsize

FORMATS = {"XYXY": 4, "XYWH": 4, "CXCYWH": 4, "XYWHR": 5, "CXCYWHR": 5, "XYXYXYXY": 8}
each_letterbox = pytest.mark.parametrize("letterbox", [False, True], ids=["stretched", "letterboxed"])


@pytest.fixture
def sizes(seed):
    """Of an image and of the result. Odd ones: a floating-point centre then lies on no edge of source pixels."""
    draw = random.Random(seed)
    size_in, size_out = ((2 * draw.randint(4, 30) + 1, 2 * draw.randint(4, 30) + 1) for _ in range(2))
    print(f"{size_in} to {size_out}")
    return size_in, size_out


@pytest.fixture
def net(seed):
    net = net_of("torch", taps=4, prior="antialias")
    torch.manual_seed(seed)  # net_of has set it to its own
    return net


def boxes_of(form, canvas, count=5):
    """Inside the canvas, wherever they are turned to."""
    centre, extent = (torch.tensor(canvas[::-1]) / 2), min(canvas) / 4
    centres = centre + (torch.rand(count, 2) - 0.5) * extent
    turned = torch.cat([centres, (0.2 + torch.rand(count, 2)) * extent / 2, torch.rand(count, 1) * 80 + 5], dim=1)
    kind = "CXCYWHR" if FORMATS[form] > 4 else "CXCYWH"
    boxes = tv_tensors.BoundingBoxes(turned[:, : FORMATS[kind]], format=kind, canvas_size=canvas)
    return v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat[form])


def as_torchvision(x, size_out, letterbox, fill=0):
    """Resized, then padded."""
    size_in = v2.query_size([x])
    (h, w), (top, left) = geometry.place(size_in, size_out, letterbox)
    moved = v2.Resize((h, w), interpolation=v2.InterpolationMode.NEAREST_EXACT)(x)
    padding = [left, top, size_out[1] - w - left, size_out[0] - h - top]
    return v2.functional.pad(moved, padding, fill=fill) if letterbox else moved


def assert_same(got, expected):
    """Of one class, with what belongs to it, and equal."""
    assert type(got) is type(expected)
    assert getattr(got, "canvas_size", None) == getattr(expected, "canvas_size", None)
    assert getattr(got, "format", None) == getattr(expected, "format", None)
    assert getattr(got, "clamping_mode", None) == getattr(expected, "clamping_mode", None)
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)


@each_letterbox
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("kind", "leading"),
    [(torch.Tensor, ()), (torch.Tensor, (2,)), (tv_tensors.Image, ()), (tv_tensors.Image, (2, 3)), (tv_tensors.Video, (2, 2))],
)
def test_images_are_those_of_the_network(kind, leading, dtype, letterbox, sizes, net):
    image = torch.randint(256, (*leading, 3, *sizes[0])).to(dtype)
    resized = Downsize(net, sizes[1], letterbox=letterbox, fill=0.25)(image.as_subclass(kind))
    assert type(resized) is kind
    expected = net(image.reshape(-1, 3, *sizes[0]), sizes[1], letterbox=letterbox, fill=0.25)
    expected = expected.images if letterbox else expected
    assert torch.equal(resized.as_subclass(torch.Tensor), expected.reshape(*leading, 3, *sizes[1]))


@each_letterbox
def test_images_are_those_of_the_oracle(letterbox, sizes, net):
    net = net.double()
    image = torch.randint(256, (1, 3, *sizes[0]), dtype=torch.uint8)
    got = Downsize(net, sizes[1], letterbox=letterbox, fill=0.25)(tv_tensors.Image(image))
    region, (top, left) = geometry.place(*sizes, letterbox)
    mean, std = (torch.tensor(v[:3], dtype=torch.float64).view(-1, 1, 1) for v in (MEAN, STD))
    x = (image / torch.tensor(255, dtype=torch.float64) - mean) / std
    texture = F.conv2d(x, net.texture[0].weight, net.texture[0].bias, padding=1).relu()
    y = oracle.downsize(x, texture, net.weights(), region, taps=4, prior="antialias")
    expected = torch.full((1, 3, *sizes[1]), 0.25, dtype=torch.float64)
    expected[:, :, top : top + region[0], left : left + region[1]] = y
    assert error(got.detach().as_subclass(torch.Tensor), expected.detach()) < 1e-12


@each_letterbox
@pytest.mark.parametrize("count", [5, 1, 0])
@pytest.mark.parametrize("form", FORMATS)
def test_boxes_are_those_of_v2(form, count, letterbox, sizes, net):
    boxes = boxes_of(form, sizes[0], count)
    assert_same(Downsize(net, sizes[1], letterbox=letterbox)(boxes), as_torchvision(boxes, sizes[1], letterbox))


@each_letterbox
@pytest.mark.parametrize("clamping_mode", ["soft", "hard", None])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float64])
def test_boxes_of_other_dtypes_reaching_outside(dtype, clamping_mode, letterbox, sizes, net):
    data = torch.rand(5, 4) * 100
    for form in ("XYXY", "XYWH", "CXCYWH"):
        boxes = tv_tensors.BoundingBoxes(data.to(dtype), format=form, canvas_size=sizes[0], clamping_mode=clamping_mode)
        assert_same(Downsize(net, sizes[1], letterbox=letterbox)(boxes), as_torchvision(boxes, sizes[1], letterbox))


@each_letterbox
@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
def test_boxes_are_those_of_map_boxes(form, letterbox, sizes, net):
    boxes = boxes_of(form, sizes[0])
    corners = v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    moved = v2.functional.convert_bounding_box_format(
        Downsize(net, sizes[1], letterbox=letterbox)(boxes), new_format=tv_tensors.BoundingBoxFormat.XYXY
    )
    expected = labels.map_boxes(corners, *sizes, letterbox=letterbox)
    torch.testing.assert_close(moved.as_subclass(torch.Tensor), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["XYWHR", "CXCYWHR", "XYXYXYXY"])
def test_turned_boxes_have_the_corners_of_map_points(form, net):
    """With equal scales on both axes, where a rectangle stays one."""
    size_in, size_out = (40, 60), (30, 30)
    boxes = boxes_of(form, size_in)
    moved = Downsize(net, size_out, letterbox=True)(boxes)
    before, after = (
        v2.functional.convert_bounding_box_format(b, new_format=tv_tensors.BoundingBoxFormat.XYXYXYXY).unflatten(-1, (4, 2))
        for b in (boxes, moved)
    )
    expected = labels.map_points(before, size_in, size_out, letterbox=True)
    torch.testing.assert_close(after.as_subclass(torch.Tensor), expected, rtol=1e-4, atol=1e-3)


@each_letterbox
@pytest.mark.parametrize("shape", [(5, 2), (0, 2), (2, 3, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_keypoints(dtype, shape, letterbox, sizes, net):
    points = (torch.rand(shape) * min(sizes[0])).to(dtype)
    given = tv_tensors.KeyPoints(points, canvas_size=sizes[0])
    moved = Downsize(net, sizes[1], letterbox=letterbox)(given)
    assert_same(moved, as_torchvision(given, sizes[1], letterbox))
    if dtype.is_floating_point:
        torch.testing.assert_close(moved.as_subclass(torch.Tensor), labels.map_points(points, *sizes, letterbox=letterbox))


@each_letterbox
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("leading", [(), (1,), (0,), (2, 3)])
def test_masks(leading, dtype, letterbox, sizes, net):
    masks = tv_tensors.Mask(torch.randint(2 if dtype == torch.bool else 20, (*leading, *sizes[0])).to(dtype))
    got = Downsize(net, sizes[1], letterbox=letterbox, mask_fill=1)(masks)
    if 0 in leading:  # which v2 refuses to interpolate
        assert_same(got, tv_tensors.Mask(torch.zeros(*leading, *sizes[1], dtype=dtype)))
    else:
        assert_same(got, as_torchvision(masks, sizes[1], letterbox, fill=1))


class Depth(tv_tensors.TVTensor):
    """A kind of tensor that torchvision does not know."""


@each_letterbox
def test_any_structure(letterbox, sizes, net):
    size_in, size_out = sizes
    image = tv_tensors.Image(torch.randint(256, (2, 3, *size_in), dtype=torch.uint8))
    others = {"label": torch.tensor(3), "name": "a.jpg", "depth": torch.rand(size_in).as_subclass(Depth), "none": None}
    each = [boxes_of(form, size_in) for form in ("XYWH", "XYWHR")]  # of each image of the batch
    masks = tv_tensors.Mask(torch.randint(9, (2, *size_in)))
    points = tv_tensors.KeyPoints(torch.rand(4, 2) * 8, canvas_size=size_in)
    transform = Downsize(net, size_out, letterbox=letterbox)
    got, (target, *rest) = transform(image, [{"boxes": each, "points": points}, (masks, others)])
    assert_same(got, transform(image))
    assert v2.query_size([got, target, rest]) == size_out
    for x, y in zip([*target["boxes"], target["points"]], [*each, points], strict=True):
        assert_same(x, as_torchvision(y, size_out, letterbox))
    assert_same(rest[0][0], transform(masks))
    assert all(rest[0][1][key] is value for key, value in others.items())


def test_a_plain_tensor_is_an_image_only_if_none_is_beside_it(net):
    transform, plain = Downsize(net), torch.rand(3, 9, 8)
    first, second = transform(plain, plain)
    assert first.shape == (3, 6, 8)
    assert second is plain
    assert transform({"plain": plain, "image": tv_tensors.Image(plain)})["plain"] is plain


class Samples:
    """Images of several sizes, as decoded to arrays, with a box each."""

    def __init__(self, *transforms):
        self.transform = v2.Compose([v2.ToImage(), *transforms])
        self.samples = []
        for label, size in enumerate([(20, 30), (31, 17), (9, 9), (25, 40)]):
            boxes = tv_tensors.BoundingBoxes([[1, 2, 3, 4.0]], format="XYWH", canvas_size=size)
            image = torch.randint(256, (*size, 3), dtype=torch.uint8).numpy()
            self.samples.append({"image": image, "boxes": boxes, "label": label})

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.transform(self.samples[index])


@each_letterbox
def test_in_compose_and_a_loader(letterbox, net):
    net.requires_grad_(False)
    samples = Samples(v2.RandomHorizontalFlip(1), Downsize(net, letterbox=letterbox), v2.ClampBoundingBoxes())
    alone = [samples[index] for index in range(len(samples))]
    batches = list(DataLoader(samples, batch_size=2, num_workers=2))
    for key in ("image", "boxes", "label"):
        expected = torch.stack([torch.as_tensor(sample[key]) for sample in alone])
        # PyTorch's products in a worker of one thread may sum in another order.
        torch.testing.assert_close(torch.cat([batch[key] for batch in batches]), expected, rtol=1e-5, atol=1e-6)
    assert batches[0]["image"].shape == (2, 3, 6, 8)


def test_a_network_in_training_is_refused_in_workers(net):
    with pytest.raises(RuntimeError, match=r"net: expected no gradients in a DataLoader's worker; freeze it by"):
        next(iter(DataLoader(Samples(Downsize(net)), num_workers=1)))


@each_letterbox
def test_gradients_are_those_of_the_network(letterbox, net):
    images = torch.rand(2, 3, 9, 13)
    weights = torch.randn(2, 3, 6, 8)
    plain = net(images, letterbox=letterbox)
    plain = plain.images if letterbox else plain
    resized = Downsize(net, letterbox=letterbox)(tv_tensors.Image(images)).as_subclass(torch.Tensor)
    expected, got = (torch.autograd.grad(y, list(net.parameters()), weights) for y in (plain, resized))
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


@each_letterbox
def test_compiled(letterbox, net):
    transform = Downsize(net, letterbox=letterbox)
    images = torch.randint(256, (2, 3, 9, 13), dtype=torch.uint8)
    compiled = torch.compile(transform, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), transform(images))


def test_compiled_with_a_structure(net):
    """torchvision's wrapping of results breaks the graph."""
    transform = Downsize(net, letterbox=True)
    sample = {"boxes": boxes_of("XYWH", (9, 13)), "mask": tv_tensors.Mask(torch.randint(9, (9, 13)))}
    sample["image"] = tv_tensors.Image(torch.randint(256, (2, 3, 9, 13), dtype=torch.uint8))
    expected = transform(sample)
    got = torch.compile(transform, backend="eager")(sample)
    assert list(got) == list(expected)
    for x, y in zip(got.values(), expected.values(), strict=True):
        assert_same(x, y)


def test_it_moves_as_a_module(net):
    transform = Downsize(net).double()
    assert transform(torch.rand(3, 9, 8, dtype=torch.float64)).dtype == torch.float64
    assert set(transform.state_dict()) == {f"net.{name}" for name in net.state_dict()}
    assert "size=(6, 8), letterbox=False" in repr(transform)


def test_sizes(net):
    assert Downsize(net)(torch.rand(3, 9, 8)).shape == (3, 6, 8)
    assert Downsize(net, 7)(torch.rand(3, 9, 20)).shape == (3, 7, 7)
    assert Downsize(net, (2, 9))(tv_tensors.Video(torch.rand(0, 4, 3, 9, 20))).shape == (0, 4, 3, 2, 9)


PIL = r"expected a tensor, got a PIL image; put torchvision.transforms.v2.ToImage\(\) before"
ERRORS = {
    "PIL": (lambda net: Downsize(net)({"image": v2.functional.to_pil_image(torch.rand(3, 9, 8))}), TypeError, PIL),
    "dimensions": (lambda net: Downsize(net)(torch.rand(9, 8)), ValueError, r"channels, height, width\), got \(9, 8\)"),
    "dtype": (lambda net: Downsize(net)(torch.rand(3, 9, 8).half()), TypeError, "expected uint8 or the weights' dtype"),
    "channels": (lambda net: Downsize(net)(torch.rand(4, 9, 8)), ValueError, "expected 3 channels"),
    "no size": (lambda net: Downsize(tritonds.DownsizeNet()), ValueError, "size: expected .* got neither"),
    "letterbox": (lambda net: Downsize(net, letterbox="no"), TypeError, "letterbox: expected True or False, got 'no'"),
    "size": (lambda net: Downsize(net, (0, 8)), ValueError, "size: expected height and width of at least 1"),
    "mask_fill": (
        lambda net: Downsize(net, letterbox=True, mask_fill=-1)(tv_tensors.Mask(torch.zeros(9, 8, dtype=torch.uint8))),
        ValueError,
        "fill: expected a value of torch.uint8, got -1",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, net):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call(net)


def test_tritonds_does_not_import_torchvision():
    code = "import sys, tritonds; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "tritonds.transforms")
    with pytest.raises(ImportError, match=r"pip install 'tritonds\[torchvision\]'"):
        importlib.import_module("tritonds.transforms")
