"""The kernels as a GPU would run them, compiled: every operator, forward and backward, against the oracle in float64.

On a GPU, or in the emulator (pytest --kernels emulated). Of what can be chosen, every two choices occur together in some draw;
sizes, values and the rest are drawn by the test's seed, which is printed where a draw fails.
"""

import random
from dataclasses import replace

import oracle
import pytest
import torch
from allpairspy import AllPairs
from cases import (
    MEAN,
    PRIORS,
    SHARPENING,
    STD,
    TOLERANCE,
    Case,
    arrange,
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
    matmul_precision,
    net_of,
    oracle_from_image,
    oracle_from_uint8,
    run,
    split,
)

import tritonds
from tritonds import geometry

pytestmark = pytest.mark.compiled

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
WIDTHS = [16, 5, 32]
"""Channels of distances, texture or hidden layers."""
LAYOUTS = ["contiguous", "channels_last", "sliced_channels_last", "expanded"]
SCALES = ["fractional", "whole", "enlarging"]


def covering(**choices):
    """Draws as dictionaries in which every two choices occur together, and a name for each."""
    rows = [dict(zip(choices, row, strict=True)) for row in AllPairs(list(choices.values()))]
    return [pytest.param(row, id=f"{i}-" + "-".join(map(_short, row.values()))) for i, row in enumerate(rows)]


def _short(value):
    return str(value).removeprefix("torch.").replace(" ", "")


def sides(rng, scale):
    """(source, target) of one axis."""
    target = rng.randint(1, 9)
    if scale == "whole":
        return target * rng.randint(1, 4), target
    if scale == "enlarging":
        return rng.randint(1, target), target
    return rng.randint(target, 4 * target + 3), target


def drawn(draw, rng):
    """The case of a draw; sizes and image channels are drawn here."""
    fields = {key: value for key, value in draw.items() if key in Case.__dataclass_fields__}
    scale = draw.get("scale", "fractional")
    (in_h, out_h), (in_w, out_w) = sides(rng, scale), sides(rng, scale)
    fields = {"n": rng.randint(1, 2), "c": rng.choice([3, 1, 2, 4])} | fields
    case = Case(size_in=(in_h, in_w), size_out=(out_h, out_w), **fields)
    if draw.get("inputs") == "texture":
        case = replace(case, distance=0)
    if draw.get("inputs") == "distance":
        case = replace(case, texture=0)
    return case


@pytest.fixture
def rng(seed):
    return random.Random(seed)


NETWORK = {
    "taps": [2, 1, 3, 4, 8],
    "dtype": DTYPES,
    "layers": [1, 0, 2, 3],
    "texture": WIDTHS,
    "distance": WIDTHS,
    "hidden": WIDTHS,
    "prior": PRIORS,
    "inputs": ["both", "texture", "distance"],
}

# Images first: they were the ones with wrong gradients, and on a GPU the time may end early.
DECODED = covering(
    taps=[2, 1, 3, 4, 8],
    dtype=DTYPES,
    layers=[1, 0, 3],
    texture=WIDTHS,
    scale=SCALES,
    prior=PRIORS,
)


@pytest.mark.parametrize("draw", DECODED)
def test_uint8_images(draw, rng, device):
    case = drawn({"distance": draw["texture"], "hidden": draw["texture"], **draw}, rng)
    assert_matches_oracle(from_uint8, oracle_from_uint8, case, device, make=make_uint8, backend="triton")


IMAGES = covering(**NETWORK, layout=LAYOUTS, scale=SCALES)


@pytest.mark.parametrize("draw", IMAGES)
def test_float_images(draw, rng, device):
    assert_matches_oracle(from_image, oracle_from_image, drawn(draw, rng), device, make=make_image, backend="triton")


TEXTURES = covering(**NETWORK, layout=LAYOUTS, scale=SCALES)


@pytest.mark.parametrize("draw", TEXTURES)
def test_given_texture(draw, rng, device):
    case = drawn(draw, rng)
    if rng.random() < 0.3:
        case = replace(case, size_texture=(rng.randint(1, 12), rng.randint(1, 12)))
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="triton")


HALVED = covering(taps=[4, 2, 3], layout=["channels_last", "contiguous"], dtype=[torch.bfloat16, torch.float16])


@pytest.mark.parametrize("draw", HALVED)
def test_texture_whose_bins_are_of_2x2_pixels(draw, rng, device):
    """Such bins have kernels without loops; those of the network's default widths more programs on a processor."""
    h, w = rng.randint(1, 6), rng.randint(33, 40)  # more than a tile
    case = Case(n=1, size_in=(2 * h, 2 * w), size_out=(h, w), texture=16, distance=16, hidden=16, **draw)
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="triton")


def test_threads_that_repeat_a_sum_agree(rng, device):
    """Where taps lie along threads, too, products must not be fused with a sum across these; Triton 3.8.0 did so here."""
    draw = {"taps": 3, "dtype": torch.float32, "layers": 2, "texture": 32, "distance": 32, "hidden": 32, "prior": "antialias"}
    assert_matches_oracle(tritonds.downsize, oracle.downsize, drawn(draw, rng), device, backend="triton")


SHARPENED = covering(prior=SHARPENING, taps=[4, 8, 3], dtype=DTYPES, layers=[1, 0, 2], texture=WIDTHS, scale=SCALES)


@pytest.mark.parametrize("draw", SHARPENED)
def test_priors_that_sharpen(draw, rng, device):
    """From images of uint8, or as coefficients. Among a few draws of all priors there may be none."""
    case = drawn({"distance": draw["texture"], "hidden": draw["texture"], **draw}, rng)
    if rng.random() < 0.5:
        assert_matches_oracle(from_uint8, oracle_from_uint8, case, device, make=make_uint8, backend="triton")
    else:
        assert_matches_oracle(tritonds.coefficients, oracle.coefficients, case, device, backend="triton")


@pytest.mark.sm_80
@pytest.mark.parametrize("draw", covering(taps=[2, 4, 3], layers=[1, 0, 2], texture=WIDTHS, prior=[None, "antialias"]))
def test_tf32(draw, rng, device):
    """No worse than eager bfloat16, which has three bits less; and other bits than IEEE products."""
    case = drawn({"dtype": torch.float32, "distance": draw["texture"], "hidden": draw["texture"], **draw}, rng)
    inputs, size = make_image(case, device), case.size_out
    grad_output = torch.randn(case.n, case.c, *size, device=device)
    exact = run(oracle_from_image, leaves(inputs, torch.float64), size, grad_output, **case.options)
    eager = run(oracle_from_image, leaves(inputs, torch.bfloat16), size, grad_output, **case.options)
    ieee = run(from_image, leaves(inputs), size, grad_output, **case.options, backend="triton")
    with matmul_precision("tf32"):
        got = run(from_image, leaves(inputs), size, grad_output, **case.options, backend="triton")
    assert not torch.equal(got[0], ieee[0])
    for x, rough, y in zip(got, eager, exact, strict=True):
        assert error(x, y) <= max(error(rough, y), 2**-8)


@pytest.mark.parametrize("draw", covering(**NETWORK | {"texture": [16, 7], "distance": [16, 5], "hidden": [16, 3]}))
def test_coefficients(draw, rng, device):
    assert_matches_oracle(tritonds.coefficients, oracle.coefficients, drawn(draw, rng), device, backend="triton")


def pooled(image, texture, weights, size, *, taps, prior, backend=None):
    return oracle.area_pool2d(image, size) if backend is None else tritonds.area_pool2d(image, size, backend=backend)


@pytest.mark.parametrize("draw", covering(dtype=DTYPES, layout=LAYOUTS, scale=SCALES, c=[3, 16, 5, 37]))
def test_area_pooling(draw, rng, device):
    case = replace(drawn(draw, rng), texture=0, layers=0)
    assert_matches_oracle(pooled, pooled, case, device, backend="triton")


@pytest.mark.parametrize("draw", covering(taps=[2, 1, 3, 4, 8], dtype=DTYPES, layout=LAYOUTS, scale=SCALES, c=[3, 16, 5, 37]))
def test_weighted_gather(draw, rng, device):
    case = drawn(draw, rng)
    image = arrange(torch.randn(case.n, case.c, *case.size_in, dtype=torch.float64, device=device).to(case.dtype), case.layout)
    shape = (case.n, case.taps**2, *case.size_out)
    a = arrange(torch.randn(shape, dtype=torch.float64, device=device).to(case.dtype), case.layout)
    grad_output = torch.randn(case.n, case.c, *case.size_out, dtype=torch.float64, device=device).to(case.dtype)

    def results(function, *inputs, **options):
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = function(*inputs, case.size_out, taps=case.taps, **options)
        return [y.detach(), *torch.autograd.grad(y, inputs, grad_output.to(y.dtype))]

    exact = results(oracle.weighted_gather2d, image.double(), a.double())
    got = results(tritonds.weighted_gather2d, image, a, backend="triton")
    limit = TOLERANCE.get(case.dtype) or 2 ** (-8 if case.dtype == torch.bfloat16 else -11)
    for x, y in zip(got, exact, strict=True):
        assert error(x, y) <= limit


# Lists


SIZES = [(12, 16), (11, 14), (1, 1), (1, 9), (9, 1), (25, 6), (6, 8)]


LISTS = covering(dtype=DTYPES, letterbox=[False, True], taps=[2, 4, 3], image=["uint8", "float"], prior=[None, "antialias"])


@pytest.mark.parametrize("draw", LISTS)
def test_lists_have_the_values_and_gradients_of_the_oracle(draw, rng, device):
    """And each image's values, alone, have the same bits; so has a second run."""
    dtype, letterbox = draw["dtype"], draw["letterbox"]
    net = net_of("triton", taps=draw["taps"], prior=draw["prior"]).to(device, dtype)
    given = images_of(SIZES, device, torch.uint8 if draw["image"] == "uint8" else dtype)
    grad_output = torch.randn(len(SIZES), 3, 6, 8, device=device).to(dtype)
    results = []
    for _ in range(2):
        y = net(given, letterbox=letterbox)
        y = y.images if letterbox else y
        results.append([y.detach(), *torch.autograd.grad(y, list(net.parameters()), grad_output)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for row, image in zip(results[0][0], given, strict=True):
        alone = net(image.unsqueeze(0), letterbox=letterbox)
        assert torch.equal(row, (alone.images if letterbox else alone)[0])
    exact = exact_results(net, given, grad_output, letterbox)
    eager = exact_results(net, given, grad_output, letterbox, dtype) if dtype.itemsize == 2 else exact
    for got, expected, rough in zip(results[0], exact, eager, strict=True):
        limit = TOLERANCE.get(dtype) or 3 * max(error(rough, expected), 2 ** (-8 if dtype == torch.bfloat16 else -11))
        assert error(got, expected) <= limit


def exact_results(net, images, grad_output, letterbox, dtype=torch.float64):
    """By the oracle, image by image, in ``dtype``: the batch, and the gradients summed over the images."""
    size, work = tuple(grad_output.shape[2:]), torch.float64
    parameters = [p.detach().to(dtype).requires_grad_() for p in net.parameters()]
    copy = dict(zip(dict(net.named_parameters()), parameters, strict=True))
    weights = tritonds.CoefficientWeights(
        copy["distance.weight"], copy["distance.bias"], (copy["hidden.0.weight"],), (copy["hidden.0.bias"],),
        copy["out.weight"], copy["out.bias"],
    )  # fmt: skip
    total, rows = [torch.zeros_like(p, dtype=work) for p in parameters], []
    for image, grad in zip(images, grad_output, strict=True):
        place = geometry.letterbox(tuple(image.shape[1:]), size) if letterbox else (size, (0, 0))
        (h, w), (top, left) = place
        mean, std = (torch.tensor(v[:3], device=image.device, dtype=dtype).view(-1, 1, 1) for v in (MEAN, STD))
        x = (image.to(dtype) / (255 if image.dtype == torch.uint8 else 1) - mean) / std
        texture = torch.nn.functional.conv2d(x[None], copy["texture.0.weight"], copy["texture.0.bias"], padding=1).relu()
        y = oracle.downsize(x[None], texture, weights, (h, w), taps=net.taps, prior=net.prior)
        inside = (slice(None), slice(top, top + h), slice(left, left + w))
        for sum_, g in zip(total, torch.autograd.grad(y, parameters, grad[inside].to(dtype)[None]), strict=True):
            sum_ += g
        row = torch.zeros_like(grad, dtype=work)
        row[inside] = y[0].detach().to(work)
        rows.append(row)
    return [torch.stack(rows), *total]


# What else launches differ in


@pytest.mark.parametrize("draw", covering(dtype=[torch.bfloat16, torch.float32], size=[(6, 8), (5, 7)]))
def test_same_input_same_bits(draw, device):
    dtype, size = draw["dtype"], draw["size"]
    inputs = make_image(Case(size_in=(12, 16), dtype=dtype, texture=16, distance=16, hidden=16), device)
    grad_output = torch.randn(2, 3, *size, device=device).to(dtype)
    first, second = (run(from_image, leaves(inputs), size, grad_output, backend="triton") for _ in range(2))
    assert len(first) == 1 + len(flatten(*inputs))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_expanded_gradients(dtype, device):
    """Such as a sum's, which lie in no memory of their own."""
    inputs = leaves(make_image(Case(dtype=dtype), device))
    grads = []
    for grad_output in (
        torch.ones((), device=device, dtype=dtype).expand(2, 3, 5, 6),
        torch.ones(2, 3, 5, 6, device=device, dtype=dtype),
    ):
        y = from_image(*inputs, (5, 6), backend="triton")
        grads.append(torch.autograd.grad(y, flatten(*inputs), grad_output))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("draw", covering(dtype=[torch.uint8, torch.bfloat16, torch.float32], offset=[1, 3]))
def test_crops_at_odd_offsets(draw, device):
    """Whose first pixel no wide load may take for aligned; around them, what must not be read or must not count."""
    dtype, offset = draw["dtype"], draw["offset"]
    large = torch.rand(2, 3, 15, 19, device=device)
    large = (large * 256).to(dtype) if dtype == torch.uint8 else large.to(dtype)
    large = large.contiguous(memory_format=torch.channels_last if offset == 3 else torch.contiguous_format)
    crop = large[:, :, offset : offset + 9, offset : offset + 11]
    work = torch.bfloat16 if dtype == torch.uint8 else dtype
    _, texture_weights, weights = leaves(make_image(Case(dtype=work, texture=16, distance=16, hidden=16), device))
    results = []
    for image in (crop, crop.clone(memory_format=torch.contiguous_format)):
        y = from_image(image, texture_weights, weights, (4, 5), backend="triton", mean=MEAN[:3], std=STD[:3])
        grads = torch.autograd.grad(y.float().square().sum(), flatten(texture_weights, None, weights))
        results.append([y.detach(), *grads])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("prior", [None, "bicubic"])
@pytest.mark.parametrize("logit", [90, 1e20])
def test_the_largest_logit_takes_all_however_large(logit, prior, device):
    """Tap 5 of a window inside the image. What is rounded off large logits must not reach coefficients."""
    case = Case(taps=4, prior=prior, size_in=(16, 16), size_out=(8, 8))
    image, texture, weights = make(case, device)
    out_bias = torch.zeros_like(weights.out_bias)
    out_bias[:16] = -logit
    out_bias[5] = logit
    weights = weights._replace(out_weight=torch.zeros_like(weights.out_weight), out_bias=out_bias)
    a = tritonds.coefficients(image, texture, weights, case.size_out, backend="triton", **case.options)
    expected = torch.zeros_like(a)
    expected[:, 5] = 1
    assert torch.equal(a[..., 2:6, 2:6], expected[..., 2:6, 2:6])


FAR = [
    pytest.param({"prior": prior}, id=f"{number}-{prior}")
    for number, prior in enumerate([None, "lanczos", "antialias", "bicubic"])
]


@pytest.mark.parametrize("draw", FAR)
def test_sizes_that_need_64_bits(draw, device):
    from tritonds.kernels import launchers as kernels

    size_in, size_out = (1, 2), (1, 23_300)
    assert kernels.launch.needs_int64([*zip(size_in, size_out, strict=True)], [])
    case = Case(n=1, c=1, size_in=size_in, texture=2, distance=2, hidden=2, **draw)
    inputs = make(case, device)
    grad_output = torch.rand(1, 1, *size_out, device=device)  # of one sign: thousands of them are summed for each source pixel
    got = run(tritonds.downsize, leaves(inputs), size_out, grad_output, backend="triton", **case.options)
    expected = run(tritonds.downsize, leaves(inputs, torch.float64), size_out, grad_output, backend="torch", **case.options)
    for x, y in zip(got, expected, strict=True):
        assert error(x, y) < 1e-5


@pytest.mark.parametrize("draw", covering(dim=[2, 0], dtype=[torch.float32, torch.bfloat16]))
def test_strides_that_need_64_bits(draw, device, monkeypatch):
    """A small view whose pixels lie gigabytes apart; the memory between them is never touched."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    step = 2**31 + 5
    strides = [4, 2, 1]
    strides[draw["dim"]] = step
    image = torch.empty(step + 16, dtype=torch.uint8, device=device).as_strided([2, 2, 2], strides)
    image.copy_(torch.randint(256, (2, 2, 2), dtype=torch.uint8))
    _, texture_weights, weights = leaves(make_image(Case(c=2, texture=3, dtype=draw["dtype"]), device))
    results = []
    for given in (image.contiguous()[None], image[None], [image]):
        weight, bias = split(texture_weights, 2)
        y = tritonds.downsize_image(given, weight, bias, weights, (3, 1), backend="triton")
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), flatten(texture_weights, None, weights))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nothing_compiles_after_a_warm_up(device, monkeypatch):
    """Training on lists of any sizes in the ranges, launched for real."""
    triton = pytest.importorskip("triton")
    if device.type == "cpu":
        monkeypatch.setattr(tritonds.precompile, "_compiles", lambda *_: True)
    net = tritonds.DownsizeNet((5, 6), mean=MEAN[:3], std=STD[:3], backend="triton").to(device)
    warmed = tritonds.warmup(net, ((6, 30), (6, 30)), dtype=torch.uint8, as_list=True, progress=False)
    assert warmed.kernels >= 3
    compiled = []
    monkeypatch.setattr(
        triton.knobs.runtime, "jit_post_compile_hook", lambda **values: compiled.append(values["fn"].name) and None
    )
    for sizes in ([(12, 10), (11, 13), (29, 6)], [(10, 12)], [(6, 30), (30, 7)]):
        images = [torch.randint(256, (3, *size), dtype=torch.uint8, device=device) for size in sizes]
        net(images).square().sum().backward()
    assert compiled == []
