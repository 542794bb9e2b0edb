"""Images in, batch out: texture made of the image, uint8, normalisation; what it costs, and what is launched."""

from dataclasses import replace

import pytest
import torch
from cases import (
    BACKENDS,
    LAYOUTS,
    LIST_SIZES,
    MEAN,
    STD,
    Case,
    assert_matches_oracle,
    each_backend,
    flatten,
    from_image,
    from_uint8,
    given_random_cases,
    images_of,
    leaves,
    make,
    make_image,
    make_uint8,
    net_of,
    oracle_from_image,
    oracle_from_uint8,
    run,
)

import tritonds
from bench.cpu import peak_bytes

GRID = {
    "default": Case(texture=16, distance=16, hidden=16),
    "taps1": Case(taps=1, n=1),
    "taps3-antialias": Case(taps=3, prior="antialias", layers=2, n=1),
    "taps4-bicubic": Case(taps=4, prior="bicubic", n=1),
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


@given_random_cases(6)
def test_random(case, seed):
    torch.manual_seed(seed)
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
    image, texture_weights, weights = leaves(make_image(case, device))
    normalize = {"mean": MEAN[: case.c], "std": STD[: case.c]}

    def function(*_):
        return from_image(image, texture_weights, weights, case.size_out, backend=backend, **normalize, **case.options)

    assert torch.autograd.gradcheck(function, flatten(image, texture_weights, weights), fast_mode=backend == "triton")


@each_backend
@pytest.mark.parametrize("out_dtype", [torch.float16, torch.float32, torch.float64])
def test_results_are_of_the_dtype_asked_for(out_dtype, backend, device):
    image, texture_weights, weights = make_image(Case(n=1, size_in=(12, 16)), device)
    exact = from_image(image, texture_weights, weights, (6, 8), backend=backend)
    y = from_image(image, texture_weights, weights, (6, 8), backend=backend, out_dtype=out_dtype)
    assert y.dtype == out_dtype
    assert torch.equal(y, exact.to(out_dtype))


@each_backend
def test_normalising_is_that_of_the_image_beforehand(backend, device):
    """Padding, too: it is put around the normalised image."""
    image, texture_weights, weights = make_image(Case(n=1, size_in=(9, 8)), device)
    mean, std = (image.new_tensor(v[:3]).view(-1, 1, 1) for v in (MEAN, STD))
    before = from_image((image - mean) / std, texture_weights, weights, (4, 3), backend=backend)
    y = from_image(image, texture_weights, weights, (4, 3), backend=backend, mean=MEAN[:3], std=tuple(STD[:3]))
    torch.testing.assert_close(y, before, rtol=1e-5, atol=1e-6)


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
    monkeypatch.setattr(kernels.plan, "tile_shape", lambda pixels: (1, 16))
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
    images = images_of(LIST_SIZES, device)
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
    texture_weights = torch.randn(3, 2, 3, 3, device=device), torch.randn(3, device=device)
    weights = make(Case(c=2, texture=3), device)[2]
    narrow = image.narrow(dim, 0, 1) if dim else image[:, :1]  # no pixel is reached by the large stride
    for x in (image, narrow):
        expected = tritonds.downsize_image(x.contiguous()[None], *texture_weights, weights, (3, 1), backend="triton")
        for given in (x.unsqueeze(0), [x]):
            assert torch.equal(tritonds.downsize_image(given, *texture_weights, weights, (3, 1), backend="triton"), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "sizes", [((12, 16), (6, 8)), ((13, 17), (5, 6)), ((4, 5), (9, 7)), ((6, 16), (6, 8)), ((9, 8), (3, 4))]
)
def test_bad_pixels_reach_what_they_reach_in_the_reference(sizes, bad, device):
    """Neither more, through a row or column that is computed along, nor less."""
    image, texture_weights, weights = make_image(Case(n=1, size_in=sizes[0]), device)
    for y, x in [(0, 0), (3, 4), (2, sizes[0][1] - 1), (sizes[0][0] - 1, 1)]:
        spoilt = image.clone()
        spoilt[0, 1, y, x] = bad
        results = [from_image(spoilt, texture_weights, weights, sizes[1], backend=backend) for backend in BACKENDS]
        assert torch.equal(*(~r.isfinite() for r in results))
        assert 3 <= (~results[0].isfinite()).sum() < results[0].numel()


# What it costs


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that are launched, and none is."""
    from tritonds.kernels import launchers as kernels

    names = []
    monkeypatch.setattr(kernels.launch, "run", lambda kernel, *_: names.append(kernel.__name__))
    return names


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
    assert launches == ["downsize_kernel", "downsize_backward_kernel", "texture_grad_weights_kernel", "sum_rows_kernel"]


def test_inputs_alone_are_saved_for_the_backward_pass(launches, device):
    net = net_of("triton").to(device)
    parameters = {t.data_ptr() for t in net.parameters()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        batch, images = torch.rand(2, 3, 12, 16, device=device), images_of(LIST_SIZES, device)
        net(batch)
        assert set(saved) == parameters | {batch.data_ptr()}
        saved.clear()
        net(images)
        assert set(saved) == parameters | {t.data_ptr() for t in images}


@pytest.mark.parametrize("needs", ["image", "texture weights", "network", "one bias"])
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
    wanted = {"image": [0], "texture weights": [1], "network": range(2, len(everything)), "one bias": [3]}[needs]
    for index, tensor in enumerate(everything):
        tensor.requires_grad_(index in wanted)
    launched.clear()
    y = from_image(*inputs, (5, 6), backend="triton")
    for index, grad in zip(wanted, torch.autograd.grad(y.sum(), [everything[i] for i in wanted]), strict=True):
        torch.testing.assert_close(grad, all_grads[index], rtol=1e-6, atol=1e-7)
    to_image = ["weighted_gather_grad_image_kernel", "texture_grad_image_kernel"]
    after = to_image if needs == "image" else ["texture_grad_weights_kernel", "sum_rows_kernel"]
    assert launched == ["downsize_kernel", "downsize_backward_kernel", *after]


# What it launches


def test_the_layer_fuses_when_it_can(device, monkeypatch):
    from tritonds.kernels import launchers as kernels

    fused = []
    monkeypatch.setattr(kernels.launch, "run", lambda _, plan, __: fused.append(plan.arguments["C"].values["FUSED_TEXTURE"]))
    image = torch.rand(1, 3, 12, 16, device=device)
    hooked = net_of("triton").to(device)
    hooked.texture[1].register_forward_hook(lambda *_: None)
    for net in (net_of("triton").to(device), hooked, net_of("triton", texture_layers=2).to(device)):
        net(image)
    assert fused == [True, False, False]


def test_many_channels_are_not_written_out(device, monkeypatch):
    """In the kernel that normalises they would be, so that these are normalised before it."""
    from tritonds.kernels import launchers as kernels

    factors, original = [], kernels.launch.run

    def run(kernel, plan, tensors):
        factors.append(plan.arguments["C"].values["FACTORS"])
        original(kernel, plan, tensors)

    monkeypatch.setattr(kernels.launch, "run", run)
    images = [torch.randint(256, (40, 5, 6), dtype=torch.uint8, device=device)] * 2
    weights = make(Case(c=40, texture=0), device)[2]
    y, z = (tritonds.downsize_image(images, None, None, weights, (3, 3), backend=b) for b in BACKENDS)
    torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-6)
    assert factors == [(), ()]


# On a GPU alone


@pytest.mark.gpu
@pytest.mark.parametrize("ragged", [False, True])
def test_cuda_graphs_replay(ragged, device):
    net = net_of("triton", out_dtype=torch.bfloat16).to(device).requires_grad_(False)
    images = images_of(LIST_SIZES, device) if ragged else torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, device=device)
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
