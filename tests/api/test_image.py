"""Images in, batch out: texture made of the image, uint8, normalisation, images of several sizes, letterboxes."""

from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cases import (
    LAYOUTS,
    MEAN,
    STD,
    Case,
    assert_matches_oracle,
    error,
    flatten,
    from_image,
    from_uint8,
    images_of,
    leaves,
    make,
    make_image,
    make_uint8,
    net_of,
    oracle_from_image,
    oracle_from_uint8,
    run,
    split,
)
from torch.utils.flop_counter import FlopCounterMode

import tritonds
from tritonds import DownsizeNet, functional, geometry, ops

BACKENDS = ["triton", "torch"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


GRID = {
    "default": Case(texture=16, distance=16, hidden=16),
    "taps1": Case(taps=1, n=1),
    "taps3-antialias": Case(taps=3, prior="antialias", layers=2, n=1),
    "taps4-bilinear": Case(taps=4, prior="bilinear", layers=0, n=1),
    "hidden3": Case(layers=3, n=1),
    "one-channel": Case(c=1, texture=1, n=1),
    "two-rows-at-once": Case(c=2, n=1, size_in=(17, 11)),
    "one-row-at-once": Case(c=4, n=1, size_in=(17, 11)),
    "many-channels": Case(c=7, texture=19, n=1),
    "more-channels-than-one-launch": Case(c=11, n=1),
    "wider-than-one-launch": Case(texture=33, n=1),
    "no-texture": Case(texture=0, layers=2),
    "texture-only": Case(distance=0),
    "halved": Case(size_in=(12, 16), size_out=(6, 8)),
    "halved-channels-last": Case(n=1, size_in=(12, 16), size_out=(6, 8), layout="channels_last"),
    "halved-down": Case(n=1, size_in=(12, 8), size_out=(6, 8)),
    "halved-across": Case(n=1, size_in=(6, 16), size_out=(6, 8)),
    "down-by-three": Case(n=1, size_in=(12, 7), size_out=(4, 7)),
    "down-by-three-both": Case(n=1, size_in=(12, 9), size_out=(4, 3)),
    "same-size": Case(n=1, size_in=(6, 7), size_out=(6, 7)),
    "enlarging": Case(n=1, size_in=(5, 4), size_out=(9, 13), prior="bilinear"),
    "integer-enlarging": Case(n=1, size_in=(4, 3), size_out=(8, 9), layout="channels_last"),
    "one-axis-each": Case(n=1, size_in=(13, 4), size_out=(4, 9), taps=3),
    "to-one-pixel": Case(size_in=(5, 6), size_out=(1, 1), taps=3, n=1),
    "from-one-pixel": Case(n=1, size_in=(1, 1), size_out=(3, 2), taps=4, prior="antialias"),
    "one-row": Case(n=1, size_in=(1, 17), size_out=(1, 5)),
    "one-column": Case(n=1, size_in=(17, 1), size_out=(5, 1), taps=4, prior="antialias"),
    "many-tiles": Case(n=1, size_in=(9, 25), size_out=(9, 17)),
}


@each_backend
@pytest.mark.parametrize("case", GRID.values(), ids=GRID)
def test_float32(case, backend, device):
    assert_matches_oracle(from_image, oracle_from_image, case, device, make=make_image, backend=backend)


@each_backend
@pytest.mark.parametrize(
    "name", ["default", "halved", "one-column", "one-row-at-once", "no-texture", "enlarging", "many-channels"]
)
def test_uint8_normalised(name, backend, device):
    assert_matches_oracle(from_uint8, oracle_from_uint8, GRID[name], device, make=make_uint8, backend=backend)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize(
    "case", [Case(size_in=(6, 8), size_out=(3, 4)), Case(size_in=(4, 5), size_out=(3, 3), taps=3, prior="antialias", layers=2)]
)
def test_dtypes(case, dtype, backend, device):
    case = replace(case, dtype=dtype, n=1)
    if dtype == torch.float64 or case.taps == 2:
        assert_matches_oracle(from_image, oracle_from_image, case, device, make=make_image, backend=backend)
    assert_matches_oracle(from_uint8, oracle_from_uint8, case, device, make=make_uint8, backend=backend)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("contiguous", "channels_last")])
def test_layouts(layout, device):
    case = Case(layout=layout, size_in=(9, 12), size_out=(4, 6), texture=4)
    assert_matches_oracle(from_image, oracle_from_image, case, device, make=make_image, backend="triton")


@hypothesis.settings(max_examples=6, phases=set(hypothesis.Phase) - {hypothesis.Phase.shrink})
@hypothesis.given(data=st.data())
def test_random(data):
    side = st.integers(1, 12)
    texture, distance = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 4))
    hypothesis.assume(texture + distance > 0)
    case = Case(
        n=data.draw(st.integers(0, 2)),
        c=data.draw(st.integers(1, 5)),
        size_in=(data.draw(side), data.draw(side)),
        size_out=(data.draw(side), data.draw(side)),
        taps=data.draw(st.integers(1, 4)),
        prior=data.draw(st.sampled_from([None, "bilinear", "antialias"])),
        distance=distance,
        texture=texture,
        hidden=data.draw(st.integers(1, 5)),
        layers=data.draw(st.integers(0, 2)),
        layout=data.draw(st.sampled_from(LAYOUTS)),
        dtype=data.draw(st.sampled_from([torch.float32, torch.float64])),
    )
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert_matches_oracle(from_image, oracle_from_image, case, device, make=make_image, backend="triton")


@each_backend
@pytest.mark.parametrize(
    "case",
    [
        Case(n=1, c=2, size_in=(5, 4), size_out=(2, 3), distance=2, texture=2, hidden=2, dtype=torch.float64),
        Case(n=1, c=1, size_in=(4, 6), size_out=(2, 3), distance=0, texture=2, layers=0, dtype=torch.float64),
    ],
    ids=["fractional", "halved"],
)
def test_gradcheck(case, backend, device):
    image, filters, weights = leaves(make_image(case, device))
    normalize = {"mean": MEAN[: case.c], "std": STD[: case.c]}

    def function(*_):
        return from_image(image, filters, weights, case.size_out, backend=backend, **normalize, **case.options)

    assert torch.autograd.gradcheck(function, flatten(image, filters, weights), fast_mode=backend == "triton")


@each_backend
@pytest.mark.parametrize("out_dtype", [torch.float16, torch.float32, torch.float64])
def test_results_are_of_the_dtype_asked_for(out_dtype, backend, device):
    image, filters, weights = make_image(Case(n=1, size_in=(12, 16)), device)
    exact = from_image(image, filters, weights, (6, 8), backend=backend)
    y = from_image(image, filters, weights, (6, 8), backend=backend, out_dtype=out_dtype)
    assert y.dtype == out_dtype
    assert torch.equal(y, exact.to(out_dtype))


@each_backend
def test_normalising_is_that_of_the_image_beforehand(backend, device):
    """Padding, too: it is put around the normalised image."""
    image, filters, weights = make_image(Case(n=1, size_in=(9, 8)), device)
    mean, std = (image.new_tensor(v[:3]).view(-1, 1, 1) for v in (MEAN, STD))
    before = from_image((image - mean) / std, filters, weights, (4, 3), backend=backend)
    y = from_image(image, filters, weights, (4, 3), backend=backend, mean=MEAN[:3], std=tuple(STD[:3]))
    torch.testing.assert_close(y, before, rtol=1e-5, atol=1e-6)


# Images of several sizes

SIZES = [(12, 16), (11, 14), (1, 1), (1, 9), (9, 1), (3, 4), (25, 6), (6, 8), (18, 8)]


@each_backend
@pytest.mark.parametrize("letterbox", [False, True], ids=["stretched", "letterboxed"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_as_if_alone(dtype, letterbox, backend, device):
    net = net_of(backend, taps=4, prior="antialias").to(device)
    images = images_of(SIZES, device, dtype)
    together = net(images, letterbox=letterbox, fill=0.25)
    alone = [net(image.unsqueeze(0), letterbox=letterbox, fill=0.25) for image in images]
    in_lists = [net([image], letterbox=letterbox, fill=0.25) for image in images[:3]]
    if letterbox:
        assert torch.equal(together.mask, torch.cat([y.mask for y in alone]))
        assert torch.equal(together.scale, torch.cat([y.scale for y in alone]))
        assert torch.equal(together.offset, torch.cat([y.offset for y in alone]))
        together, alone, in_lists = together.images, [y.images for y in alone], [y.images for y in in_lists]
    for row, one in [*zip(together, alone, strict=True), *zip(together, in_lists, strict=False)]:
        if backend == "triton":
            assert torch.equal(row, one[0])
        else:  # PyTorch's matrix products may sum in another order
            torch.testing.assert_close(row, one[0], rtol=1e-5, atol=1e-6)


def test_whole_pixels_count_alike_in_loops_and_written_out(device):
    """Where 1 / 41, rounded, times 41 is not 1."""
    net = net_of("triton", (41, 2)).to(device)
    image = torch.rand(3, 82, 4, device=device)
    assert torch.equal(net([image]), net(image.unsqueeze(0)))


@pytest.mark.parametrize("letterbox", [False, True], ids=["stretched", "letterboxed"])
def test_lists_have_the_values_and_gradients_of_the_reference(letterbox, device):
    nets = [net_of(backend).to(device) for backend in BACKENDS]
    images = images_of(SIZES, device)
    grad_output = torch.randn(len(SIZES), 3, 6, 8, device=device)
    results = []
    for net in nets:
        y = net(images, letterbox=letterbox)
        y = y.images if letterbox else y
        results.append([y.detach(), *torch.autograd.grad(y, list(net.parameters()), grad_output)])
    for got, expected in zip(*results, strict=True):
        assert error(got, expected.double()) < 1e-5


@each_backend
def test_gradients_to_the_images_of_a_list(backend, device):
    """Each as if alone; only Triton's single launch has none, and is not taken."""
    net = net_of(backend).to(device)
    images = [image.requires_grad_() for image in images_of(SIZES[:4], device, torch.float32)]
    y = net(images)
    weight = torch.randn_like(y)
    grads = torch.autograd.grad((y * weight).sum(), images)
    for image, one, got in zip(images, weight, grads, strict=True):
        leaf = image.detach().unsqueeze(0).requires_grad_()
        (expected,) = torch.autograd.grad((net(leaf)[0] * one).sum(), leaf)
        torch.testing.assert_close(got, expected[0], rtol=1e-4, atol=1e-5)


@hypothesis.settings(max_examples=6, phases=set(hypothesis.Phase) - {hypothesis.Phase.shrink})
@hypothesis.given(data=st.data())
def test_any_mix_of_sizes(data):
    side = st.one_of(st.just(1), st.integers(1, 20))
    sizes = data.draw(st.lists(st.tuples(side, side), min_size=1, max_size=5))
    size = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    letterbox, taps = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = net_of("triton", size, taps=taps, prior=data.draw(st.sampled_from([None, "bilinear", "antialias"]))).to(device)
    images = images_of(sizes, device)
    y = net(images, letterbox=letterbox)
    net.backend = "torch"
    z = net(images, letterbox=letterbox)
    if letterbox:
        assert torch.equal(y.mask, z.mask)
        y, z = y.images, z.images
    assert error(y, z.double()) < 1e-5
    net.backend = "triton"
    for row, image in zip(y, images, strict=True):
        alone = net(image.unsqueeze(0), letterbox=letterbox)
        assert torch.equal(row, (alone.images if letterbox else alone)[0])


@each_backend
def test_letterboxes_hold_the_image_resized_to_its_region(backend, device):
    net = net_of(backend, (9, 8)).to(device)
    images = images_of(SIZES, device)
    y = net(images, letterbox=True, fill=-3.0)
    labels = [torch.ones(image.shape[1:], dtype=torch.bool, device=device) for image in images]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        size_in = tuple(image.shape[1:])
        (h, w), (top, left) = geometry.letterbox(size_in, (9, 8))
        region = y.images[index, :, top : top + h, left : left + w]
        torch.testing.assert_close(region, net(image.unsqueeze(0), (h, w))[0], rtol=0, atol=0 if backend == "triton" else 1e-6)
        assert torch.equal(y.mask[index], geometry.map_masks(label, (9, 8), letterbox=True))
        assert (y.images[index][:, ~y.mask[index]] == -3).all()
        box = torch.tensor([0.0, 0, size_in[1], size_in[0]], device=device)
        mapped = geometry.map_boxes(box, size_in, (9, 8), letterbox=True)
        torch.testing.assert_close(mapped, (box.view(2, 2) * y.scale[index] + y.offset[index]).flatten())


@each_backend
def test_letterboxing_a_batch(backend, device):
    net = net_of(backend, (8, 8)).to(device)
    image = torch.randint(256, (2, 3, 12, 6), dtype=torch.uint8, device=device)
    y = net(image, letterbox=True, fill=1.0)
    torch.testing.assert_close(y.images[..., 2:6], net(image, (8, 4)), rtol=1e-5, atol=1e-6)
    assert (y.images[..., :2] == 1).all()
    assert y.mask.sum() == 2 * 8 * 4
    empty = net(image[:0], letterbox=True)
    assert empty.images.shape == (0, 3, 8, 8)
    assert empty.mask.shape == (0, 8, 8)
    assert empty.scale.shape == (0, 2)


# What always holds


@pytest.mark.parametrize("size", [(6, 8), (5, 7)], ids=["halved", "fractional"])
def test_same_input_same_bits(size, device):
    inputs = make_image(Case(size_in=(12, 16)), device)
    grad_output = torch.randn(2, 3, *size, device=device)
    first, second = (run(from_image, leaves(inputs), size, grad_output, backend="triton") for _ in range(2))
    assert len(first) == 1 + len(flatten(*inputs))
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("size", [(5, 6), (4, 7)], ids=["halved", "fractional"])
def test_tiles_do_not_change_the_result(size, device, monkeypatch, fresh_plans):
    from tritonds.kernels import launchers as kernels

    inputs = make_image(Case(n=1, size_in=(10, 12)), device)
    grad_output = torch.randn(1, 3, *size, device=device)
    expected = run(from_image, leaves(inputs), size, grad_output, backend="triton")
    monkeypatch.setattr(kernels.plan, "tile_shape", lambda pixels: (1, 8))
    monkeypatch.setattr(kernels.plan, "MAX_BACKWARD_PROGRAMS", 3)
    monkeypatch.setattr(kernels.launch, "ENOUGH_PROGRAMS", 4)  # several tiles a program, and fewer in the last of a column
    got = run(from_image, leaves(inputs), size, grad_output, backend="triton")
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)], ids=["halved", "fractional"])
def test_in_64_bits(size, device, monkeypatch, fresh_plans):
    from tritonds.kernels import launchers as kernels

    inputs = make_image(Case(size_in=(12, 16), layout="channels_last"), device)
    grad_output = torch.randn(2, 3, *size, device=device)
    images = images_of(SIZES, device)
    net = net_of("triton").to(device)
    narrow = [net(images).detach(), *run(from_image, leaves(inputs), size, grad_output, backend="triton")]
    for module in (kernels.plan, kernels.batch, kernels.gather):
        monkeypatch.setattr(module, "needs_int64", lambda axes, layouts: True)
    wide = [net(images).detach(), *run(from_image, leaves(inputs), size, grad_output, backend="triton")]
    for x, y in zip(narrow, wide, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_images_whose_strides_pass_2_31(dim, device, monkeypatch):
    """A small view whose pixels lie gigabytes apart; the memory between them is never touched."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    step = 2**31 + 5
    base = torch.empty(step + 16, dtype=torch.uint8, device=device)
    strides = [4, 2, 1]
    strides[dim] = step
    image = base.as_strided([2, 2, 2], strides)
    image.copy_(torch.arange(8, dtype=torch.uint8).view(2, 2, 2))
    filters = torch.randn(3, 2, 3, 3, device=device), torch.randn(3, device=device)
    weights = make(Case(c=2, texture=3), device)[2]
    narrow = image.narrow(dim, 0, 1) if dim else image[:, :1]  # no pixel is reached by the large stride
    for x in (image, narrow):
        expected = tritonds.downsize_image(x.contiguous()[None], *filters, weights, (3, 1), backend="triton")
        for given in (x.unsqueeze(0), [x]):
            assert torch.equal(tritonds.downsize_image(given, *filters, weights, (3, 1), backend="triton"), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "sizes", [((12, 16), (6, 8)), ((13, 17), (5, 6)), ((4, 5), (9, 7)), ((6, 16), (6, 8)), ((9, 8), (3, 4))]
)
def test_bad_pixels_reach_what_they_reach_in_the_reference(sizes, bad, device):
    """Neither more, through a row or column that is computed along, nor less."""
    image, filters, weights = make_image(Case(n=1, size_in=sizes[0]), device)
    for y, x in [(0, 0), (3, 4), (2, sizes[0][1] - 1), (sizes[0][0] - 1, 1)]:
        spoilt = image.clone()
        spoilt[0, 1, y, x] = bad
        results = [from_image(spoilt, filters, weights, sizes[1], backend=backend) for backend in BACKENDS]
        assert torch.equal(*(~r.isfinite() for r in results))
        assert 3 <= (~results[0].isfinite()).sum() < results[0].numel()


def test_images_too_wide_for_a_launch_in_a_list(device):
    images = images_of(SIZES[:3], device, torch.float32, channels=11)
    weights = make(Case(c=11, texture=3), device)[2]
    filters = torch.randn(3, 11, 3, 3, device=device), torch.randn(3, device=device)
    y, z = (tritonds.downsize_image(images, *filters, weights, (4, 5), backend=b) for b in BACKENDS)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)


# What it costs


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that are launched, and none is."""
    from tritonds.kernels import launchers as kernels

    names = []
    monkeypatch.setattr(kernels.launch, "run", lambda kernel, *_: names.append(kernel.__name__))
    return names


def peak_bytes(function):
    """The most that is allocated at once while ``function`` runs, in bytes."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


def test_one_launch_allocates_its_output_alone(launches, device, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    net = net_of("triton", (64, 64), out_dtype=torch.float16).to(device).requires_grad_(False)
    batch = torch.zeros(4, 3, 200, 300, dtype=torch.uint8, device=device)
    images = [torch.zeros(3, h, w, dtype=torch.uint8, device=device) for h, w in [(500, 400), (200, 700), (64, 64)]]
    for given in (batch, images):
        net(given)  # once before, since plans are kept
        launches.clear()
        output = len(given) * 3 * 64 * 64 * 2
        table = 0 if given is batch else 16 * 8 * len(given)
        assert output <= peak_bytes(lambda given=given: net(given)) <= output + 4 * table
        assert launches == ["downsize_kernel"]


def test_training_needs_less_than_one_feature_map(launches, device, monkeypatch):
    """And no more than bilinear interpolation and a convolution's features, which a network in front needs at the least."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    image = torch.zeros(2, 3, 256, 256, device=device)
    net = net_of("triton", (96, 96)).to(device)

    def fused():
        net(image).sum().backward()

    def features():
        net.texture(image).sum().backward()

    net.zero_grad()
    assert peak_bytes(fused) < 2 * 6 * 256 * 256 * 4 < peak_bytes(features)
    assert launches == ["downsize_kernel", "downsize_backward_kernel", "texture_grad_filter_kernel"]


def test_inputs_alone_are_saved_for_the_backward_pass(launches, device):
    net = net_of("triton").to(device)
    parameters = {t.data_ptr() for t in net.parameters()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        batch, images = torch.rand(2, 3, 12, 16, device=device), images_of(SIZES, device)
        net(batch)
        assert set(saved) == parameters | {batch.data_ptr()}
        saved.clear()
        net(images)
        assert set(saved) == parameters | {t.data_ptr() for t in images}


@pytest.mark.parametrize("needs", ["image", "filters", "network", "one bias"])
def test_only_the_gradients_that_are_wanted(needs, device, monkeypatch):
    from tritonds.kernels import launchers as kernels

    launched = []
    original = kernels.launch.run
    monkeypatch.setattr(
        kernels.launch, "run", lambda kernel, *rest: (launched.append(kernel.__name__), original(kernel, *rest))
    )
    inputs = leaves(make_image(Case(n=1), device))
    everything = flatten(*inputs)
    y = from_image(*inputs, (5, 6), backend="triton")
    all_grads = torch.autograd.grad(y.sum(), everything)
    wanted = {"image": [0], "filters": [1], "network": range(2, len(everything)), "one bias": [3]}[needs]
    for index, tensor in enumerate(everything):
        tensor.requires_grad_(index in wanted)
    launched.clear()
    y = from_image(*inputs, (5, 6), backend="triton")
    for index, grad in zip(wanted, torch.autograd.grad(y.sum(), [everything[i] for i in wanted]), strict=True):
        torch.testing.assert_close(grad, all_grads[index], rtol=1e-6, atol=1e-7)
    to_image = ["weighted_gather_grad_image_kernel", "texture_grad_image_kernel"]
    after = to_image if needs == "image" else ["texture_grad_filter_kernel"]
    assert launched == ["downsize_kernel", "downsize_backward_kernel", *after]


# The layer


def test_the_layer_fuses_when_it_can(device, monkeypatch):
    from tritonds.kernels import launchers as kernels

    fused = []
    monkeypatch.setattr(kernels.launch, "run", lambda k, n, arguments: fused.append(arguments["C"].values["FUSED_TEXTURE"]))
    image = torch.rand(1, 3, 12, 16, device=device)
    hooked = net_of("triton").to(device)
    hooked.texture[1].register_forward_hook(lambda *_: None)
    for net in (net_of("triton").to(device), hooked, net_of("triton", texture_layers=2).to(device)):
        net(image)
    assert fused == [True, False, False]


def test_many_channels_are_not_written_out(device, monkeypatch):
    """In the kernel that normalises they would be, so that these are normalised before it."""
    from tritonds.kernels import launchers as kernels

    scales, original = [], kernels.launch.run

    def run(kernel, programs, arguments):
        scales.append(arguments["C"].values["SCALE"])
        original(kernel, programs, arguments)

    monkeypatch.setattr(kernels.launch, "run", run)
    images = [torch.randint(256, (40, 5, 6), dtype=torch.uint8, device=device)] * 2
    weights = make(Case(c=40, texture=0), device)[2]
    y, z = (tritonds.downsize_image(images, None, None, weights, (3, 3), backend=b) for b in BACKENDS)
    torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-6)
    assert scales == [(), ()]


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_submodules_are_called(hook, device):
    """Which they are if the submodules are; the result is the same."""
    net = net_of("triton").to(device)
    image = torch.rand(1, 3, 12, 16, device=device, requires_grad=True)
    fused = net(image)
    calls = []
    getattr(net.texture[0], hook)(lambda *arguments: calls.append(1))
    y = net(image)
    y.sum().backward()
    assert calls
    torch.testing.assert_close(y, fused, rtol=1e-5, atol=1e-6)


def test_parametrized_convolutions_are_called(device):
    net = net_of("triton").to(device)
    image = torch.rand(1, 3, 12, 16, device=device)
    fused = net(image)
    torch.nn.utils.parametrizations.weight_norm(net.texture[0])
    torch.testing.assert_close(net(image), fused, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"texture_layers": 2}, {"hidden_layers": 0}])
def test_layers_of_either_backend_agree_on_lists(options, device):
    images = images_of(SIZES, device)
    y, z = (net_of(backend, **options).to(device)(images, letterbox=True).images for backend in BACKENDS)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"padding_mode": "reflect", "padding": 1},
        {"padding": 2, "dilation": 2},
        {"padding": 0},
        {"kernel_size": 1},
        {"padding": 1, "bias": False},
        {"padding": 1, "stride": 2},
        {},
    ],
)
def test_other_convolutions_are_called(options, device):
    """Whatever a user puts in the place of the layer's own."""
    nets = [net_of(backend).to(device) for backend in BACKENDS]
    torch.manual_seed(2)
    nets[0].texture[0] = torch.nn.Conv2d(3, 6, **{"kernel_size": 3, "padding": 0} | options).to(device)
    nets[1].texture[0] = nets[0].texture[0]
    image = torch.rand(1, 3, 12, 16, device=device)
    torch.testing.assert_close(nets[0](image), nets[1](image), rtol=1e-5, atol=1e-6)


@each_backend
def test_pixels_are_normalised_in_float32_whatever_the_activations_are_in(backend, device):
    image = torch.randint(256, (1, 3, 40, 40), dtype=torch.uint8, device=device)
    options = dict(taps=4, prior="antialias", mean=MEAN[:3], std=STD[:3], out_dtype=torch.float32)
    net = DownsizeNet((20, 20), backend=backend, **options).to(device, torch.float16)  # untrained: no activation counts
    mean, std = (torch.tensor(v[:3], device=device).view(-1, 1, 1) for v in (MEAN, STD))
    expected = F.interpolate((image / 255 - mean) / std, (20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(net(image), expected, rtol=1e-5, atol=1e-5)


def test_images_made_in_inference_mode_train(device):
    net = net_of("triton").to(device)
    with torch.inference_mode():
        images = images_of(SIZES[:2], device)
    net(images).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_networks_pickled_before_there_were_options(device):
    net = net_of("triton").to(device)
    plain = DownsizeNet((6, 8)).to(device)
    for name in ("mean", "std", "out_dtype"):
        del plain.__dict__[name], net.__dict__[name]
    image = torch.rand(1, 3, 12, 16, device=device)
    assert plain(image).shape == net(image).shape == (1, 3, 6, 8)


def test_distance_only_layers_take_lists(device):
    images = images_of(SIZES, device)
    nets = [DownsizeNet((6, 8), texture_channels=0, mean=MEAN[:3], std=STD[:3], backend=b).to(device) for b in BACKENDS]
    nets[1].load_state_dict(nets[0].state_dict())
    torch.testing.assert_close(nets[0](images), nets[1](images), rtol=1e-5, atol=1e-6)


@each_backend
def test_autocast(backend, device):
    """Parameters in float32, activations in half precision, as everywhere under autocast; uint8 stays what it is."""
    dtype = torch.float16 if device.type == "cuda" or backend == "triton" else torch.bfloat16
    net = net_of(backend).to(device)
    image = torch.randint(256, (1, 3, 12, 16), dtype=torch.uint8, device=device)
    exact = net(image)
    with torch.autocast(device.type, dtype=dtype):
        y = net(image)
        listed = net([image[0]])
    assert y.dtype == listed.dtype == dtype
    assert error(y, exact.double()) < 2e-2
    assert error(listed, exact.double()) < 2e-2
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_letterboxes_of_a_pixel_keep_the_memory_format(device):
    image = torch.rand(1, 3, 20, 1, device=device).contiguous(memory_format=torch.channels_last)
    strides = [net_of(backend, (1, 4)).to(device)(image, letterbox=True).images.stride() for backend in BACKENDS]
    assert strides[0] == strides[1]


@each_backend
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_results_keep_the_images_memory_format(memory_format, backend, device):
    net = net_of(backend).to(device)
    image = torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, device=device).contiguous(memory_format=memory_format)
    assert net(image).is_contiguous(memory_format=memory_format)
    assert net(list(image)).is_contiguous(memory_format=memory_format)


# As PyTorch sees it


def operands(device, ragged, dtype=torch.float32):
    case = Case(n=1, texture=3, dtype=dtype)
    image, filters, weights = make_image(case, device)
    weight, bias = split(filters, 3)
    images = images_of([(12, 16), (5, 7)], device) if ragged else [image]
    return images, [weight.contiguous(), bias.contiguous()], functional._flatten(weights)


@pytest.mark.parametrize("ragged", [False, True])
def test_opcheck(ragged, device):
    images, filters, weights = operands(device, ragged)
    n = len(images) if ragged else 1
    options = (True, 6, 8, 2, "none", [0.5, 1.0, 2.0], [0.0, -1.0, 1.0], 0.5 if ragged else None)
    wanted = [t.detach().requires_grad_() for t in filters], [t.detach().requires_grad_() for t in weights]
    torch.library.opcheck(ops.downsize_image, (images, *wanted, *options, torch.float16))
    grad = torch.ones(n, 3, 6, 8, device=device)
    backward = (grad, images, filters, weights, True, 2, "none", *options[5:], not ragged, True)
    torch.library.opcheck(ops.downsize_image_backward, backward)


@pytest.mark.parametrize("letterbox", [False, True])
def test_compiles_whole(letterbox, device):
    net = net_of("triton").to(device)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for given in (images_of(SIZES[:3], device), torch.rand(2, 3, 12, 16, device=device)):
        y, z = compiled(given, letterbox=letterbox), net(given, letterbox=letterbox)
        pairs = zip(y, z, strict=True) if letterbox else [(y, z)]
        assert all(torch.equal(a, b) for a, b in pairs)
    y, z = compiled(given), net(given)
    parameters = list(net.parameters())
    for a, b in zip(torch.autograd.grad(y.sum(), parameters), torch.autograd.grad(z.sum(), parameters), strict=True):
        assert torch.equal(a, b)


def test_compiles_for_any_mean(device):
    """Which PyTorch makes a symbol of once it has seen two."""

    def call(net, image):
        return net(image)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    image = torch.randint(256, (1, 3, 12, 16), dtype=torch.uint8, device=device)
    for mean in ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]):
        net = net_of("triton").to(device)
        net.mean = mean
        assert torch.equal(compiled(net, image), net(image))


def test_exports(device):
    net = net_of("triton").to(device).eval()
    image = torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, device=device)
    program = torch.export.export(net, (image,))
    assert torch.equal(program.module()(image), net(image))


def test_no_second_derivatives_of_the_kernels(device):
    net = net_of("triton").to(device)
    image = torch.rand(1, 3, 12, 16, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(net(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


def test_flops_count_the_convolution(device):
    net = net_of("triton").to(device)
    image = torch.rand(2, 3, 12, 16, device=device)
    counts = []
    for given in (image, list(image)):
        with FlopCounterMode(display=False) as counter:
            net(given).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    network = 2 * 2 * 6 * 8 * (5 * 4 + 7 * 11 + 4 * 7)
    texture = 2 * 2 * 12 * 16 * 6 * (27 + 1)
    gather = 2 * 2 * 6 * 8 * 4 * 3
    assert counts[0] == 4 * (network + texture) + 2 * gather


@pytest.mark.gpu
@pytest.mark.parametrize("ragged", [False, True])
def test_cuda_graphs_replay(ragged, device):
    net = net_of("triton", out_dtype=torch.bfloat16).to(device).requires_grad_(False)
    images = images_of(SIZES, device) if ragged else torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, device=device)
    net(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = net(images)
    for image in images:
        image.copy_(255 - image)
    torch.cuda.empty_cache()
    graph.replay()
    assert torch.equal(y, net(images))


@pytest.mark.gpu
def test_large_batches_repeat(device):
    net = net_of("triton", (270, 480)).to(device, torch.bfloat16)
    sizes = [(540, 960), (1080, 1920), (700, 500), (333, 1111)]
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, device=device) for size in sizes]
    parameters = list(net.parameters())
    runs = []
    for _ in range(3):
        y = net(images)
        runs.append([y, *torch.autograd.grad(y.float().square().sum(), parameters)])
        for row, image in zip(y, images, strict=True):
            assert torch.equal(row, net(image.unsqueeze(0))[0])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


class TestErrors:
    weights = tritonds.CoefficientWeights(None, None, (), (), torch.zeros(4, 2), torch.zeros(4))
    image = torch.zeros(1, 3, 8, 8)
    filters = (torch.zeros(2, 3, 3, 3), torch.zeros(2))

    def call(self, image=None, filters=None, weights=None, size=(4, 4), **options):
        image = self.image if image is None else image
        filters = self.filters if filters is None else filters
        return tritonds.downsize_image(image, *filters, self.weights if weights is None else weights, size, **options)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"image": 3}, TypeError, "image: expected a torch.Tensor or a list of them, got int"),
            ({"image": []}, ValueError, "image: expected at least one image"),
            ({"image": [torch.zeros(1, 3, 8, 8)]}, ValueError, r"image\[0\]: expected shape \(channels, height, width\)"),
            ({"image": [torch.zeros(3, 8, 8), torch.zeros(3, 0, 8)]}, ValueError, r"image\[1\]: expected shape"),
            ({"image": [torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)]}, ValueError, r"image\[1\]: expected the first image's 3"),
            ({"image": [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8).half()]}, TypeError, r"image\[1\]: expected the dtype"),
            ({"image": [torch.zeros(3, 8, 8), "x"]}, TypeError, r"image\[1\]: expected a torch.Tensor, got str"),
            ({"image": torch.zeros(1, 3, 8, 8, dtype=torch.int32)}, TypeError, "image: expected uint8 or the weights' dtype"),
            ({"image": torch.zeros(1, 3, 8, 8).half()}, TypeError, "image: expected uint8 or the weights' dtype"),
            ({"image": torch.zeros(3, 8, 8)}, ValueError, "image: expected 4 dimensions"),
            (
                {"filters": (torch.zeros(2, 4, 3, 3), torch.zeros(2))},
                ValueError,
                r"texture_weight: expected shape \(F, 3, 3, 3\)",
            ),
            ({"filters": (torch.zeros(2, 3, 5, 5), torch.zeros(2))}, ValueError, "texture_weight: expected shape"),
            ({"filters": (torch.zeros(2, 3, 3, 3), torch.zeros(3))}, ValueError, r"texture_bias: expected shape \(2,\)"),
            ({"filters": (torch.zeros(2, 3, 3, 3), None)}, ValueError, "expected both or neither"),
            ({"filters": (torch.zeros(2, 3, 3, 3).half(), torch.zeros(2))}, TypeError, "texture_weight: expected the dtype"),
            ({"filters": (torch.zeros(3, 3, 3, 3), torch.zeros(3))}, ValueError, "weights: expected out weight of shape"),
            ({"mean": 0.5}, TypeError, "mean: expected a list of numbers"),
            ({"mean": [0.5]}, ValueError, "mean: expected 3 finite numbers"),
            ({"std": [1.0, 0.0, 1.0]}, ValueError, "std: expected numbers above"),
            ({"std": [1.0, float("nan"), 1.0]}, ValueError, "std: expected 3 finite numbers"),
            ({"out_dtype": torch.int8}, TypeError, "out_dtype: expected float16"),
            ({"out_dtype": "half"}, TypeError, "out_dtype: expected a torch.dtype"),
            ({"fill": "black"}, TypeError, "fill: expected a number"),
            ({"fill": float("nan")}, ValueError, "fill: expected a finite number of torch.float32"),
            ({"fill": 70_000, "out_dtype": torch.float16}, ValueError, "fill: expected a finite number of torch.float16"),
            ({"std": [1.0, 1e-40, 1.0]}, ValueError, "std: expected numbers above"),
            ({"size": (0, 4)}, ValueError, "size: expected"),
            ({"taps": 9}, ValueError, "taps: expected"),
            ({"backend": "cuda"}, ValueError, "backend: expected"),
        ],
    )
    def test_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            self.call(**arguments)

    def test_layer(self):
        with pytest.raises(ValueError, match="mean: expected 3 finite numbers"):
            DownsizeNet(mean=[0.5])
        with pytest.raises(TypeError, match="out_dtype"):
            DownsizeNet(out_dtype=torch.uint8)
        with pytest.raises(TypeError, match="image: expected uint8 or"):
            DownsizeNet((4, 4))(torch.zeros(1, 3, 8, 8, dtype=torch.int64))
        with pytest.raises(ValueError, match="image: expected 3 channels"):
            DownsizeNet((4, 4))([torch.zeros(1, 8, 8)])
        with pytest.raises(TypeError, match=r"image: expected a torch\.Tensor, got list"):
            DownsizeNet((4, 4)).coefficients([torch.zeros(3, 8, 8)])
        with pytest.raises(TypeError, match="fill: expected a number"):
            DownsizeNet((4, 4), texture_layers=2)(torch.zeros(1, 3, 8, 8), letterbox=True, fill="black")
