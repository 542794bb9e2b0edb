"""Values and all gradients of both backends against the float64 oracle."""

from dataclasses import replace

import oracle
import pytest
import torch
from cases import (
    DTYPES,
    LAYOUTS,
    Case,
    arrange,
    assert_matches_oracle,
    each_backend,
    error,
    flatten,
    given_random_cases,
    leaves,
    make,
)

import tritonds

GRID = {
    "taps1": Case(taps=1),
    "taps2-bilinear": Case(taps=2, prior="bilinear"),
    "taps3-antialias": Case(taps=3, prior="antialias", layers=2),
    "taps4-antialias": Case(taps=4, prior="antialias"),
    "taps5": Case(taps=5, n=1),
    "taps6-antialias": Case(taps=6, prior="antialias", n=1, layers=0),
    "taps7-bilinear": Case(taps=7, prior="bilinear", n=1),
    "taps8-antialias": Case(taps=8, prior="antialias", n=1),
    "taps4-bicubic": Case(taps=4, prior="bicubic"),
    "taps6-lanczos": Case(taps=6, prior="lanczos", n=1, layers=0),
    "taps1-lanczos": Case(taps=1, prior="lanczos"),
    "no-hidden": Case(layers=0),
    "hidden2": Case(layers=2, hidden=17),
    "hidden3": Case(layers=3, prior="bilinear"),
    "distance-only": Case(texture=0),
    "distance-only-no-hidden": Case(texture=0, layers=0, distance=17),
    "texture-only": Case(distance=0),
    "texture-only-hidden3": Case(distance=0, layers=3, texture=3),
    "odd-channels": Case(c=5, texture=19, distance=1, hidden=1),
    "one-channel": Case(c=1, texture=1),
    "default": Case(texture=16, distance=16, hidden=16),
    "many-tiles": Case(n=1, size_in=(37, 41), size_out=(17, 19)),
    "enlarging": Case(size_in=(5, 4), size_out=(9, 13), prior="bilinear"),
    "enlarging-taps4": Case(size_in=(5, 4), size_out=(9, 13), taps=4, prior="antialias"),
    "enlarging-bicubic": Case(size_in=(5, 4), size_out=(9, 13), taps=4, prior="bicubic", layers=2),
    "one-axis-each": Case(size_in=(13, 4), size_out=(4, 9), taps=3),
    "same-size": Case(size_in=(6, 7), size_out=(6, 7)),
    "integer-scale": Case(size_in=(12, 18), size_out=(4, 6)),
    "integer-scale-channels-last": Case(size_in=(12, 18), size_out=(4, 6), layout="channels_last"),
    "halved-sliced": Case(size_in=(10, 14), size_out=(5, 7), texture=8, layout="sliced_channels_last"),
    "same-size-channels-last": Case(size_in=(6, 7), size_out=(6, 7), layout="channels_last"),
    "integer-enlarging": Case(size_in=(4, 3), size_out=(8, 9), layout="channels_last"),
    "integer-either-way": Case(size_in=(12, 3), size_out=(4, 9), layout="channels_last"),
    "to-one-pixel": Case(size_out=(1, 1), taps=3),
    "from-one-pixel": Case(size_in=(1, 1), size_out=(3, 2), taps=4),
    "one-to-one-pixel": Case(size_in=(1, 1), size_out=(1, 1)),
    "one-row": Case(size_in=(1, 17), size_out=(1, 5)),
    "one-column": Case(size_in=(17, 1), size_out=(5, 1), taps=4, prior="antialias"),
    "strong": Case(n=1, size_in=(41, 3), size_out=(2, 2), taps=8),
    "texture-of-other-size": Case(size_texture=(6, 19)),
    "smaller-texture": Case(size_texture=(3, 2)),
    "wider-than-one-launch": Case(texture=33, hidden=40, n=1),
    "wider-bicubic": Case(texture=33, hidden=40, n=1, taps=3, prior="bicubic"),
}


@each_backend
@pytest.mark.parametrize("case", GRID.values(), ids=GRID)
def test_downsize_float32(case, backend, device):
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend=backend)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize(
    "name", ["default", "taps4-antialias", "taps4-bicubic", "hidden3", "odd-channels", "distance-only", "enlarging"]
)
def test_downsize_dtypes(name, dtype, backend, device):
    case = replace(GRID[name], dtype=dtype)
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend=backend)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_downsize_layouts(layout, dtype, device):
    case = Case(layout=layout, dtype=dtype, texture=8)
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="triton")


@given_random_cases(12)
def test_downsize_random(case, seed):
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="triton")


@each_backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", ["default", "taps3-antialias", "taps6-lanczos", "taps1", "hidden2", "distance-only", "texture-only-hidden3"]
)
def test_coefficients(name, dtype, backend, device):
    case = replace(GRID[name], dtype=dtype)
    assert_matches_oracle(tritonds.coefficients, oracle.coefficients, case, device, backend=backend)


@pytest.mark.parametrize("axis", [0, 1])
def test_distances_keep_what_half_precision_rounds_off(axis, device):
    """A channel whose large terms cancel, 1000 * -2/3 + 0.3 * 1/3 + 667; neither -2/3 nor 1000.3 nor 667.3 is a float16."""
    image = torch.rand(1, 1, 7, 7, device=device).half()
    distance_weight = torch.zeros(1, 4, device=device)
    distance_weight[0, 2 * axis : 2 * axis + 2] = torch.tensor([1000, 0.3])
    out_weight = torch.tensor([[2.0], [-2], [1], [0]], device=device)
    tensors = (distance_weight, torch.tensor([667.0], device=device), out_weight, torch.zeros(4, device=device))
    distance_weight, distance_bias, out_weight, out_bias = (t.half() for t in tensors)
    weights = tritonds.CoefficientWeights(distance_weight, distance_bias, (), (), out_weight, out_bias)
    got = tritonds.coefficients(image, None, weights, (3, 3), backend="triton")
    exact = [t.double() for t in (distance_weight, distance_bias, out_weight, out_bias)]
    weights = tritonds.CoefficientWeights(exact[0], exact[1], (), (), exact[2], exact[3])
    expected = oracle.coefficients(image.double(), None, weights, (3, 3), taps=2, prior=None)
    first = [slice(None), slice(None), *([slice(1)] * 2)]
    # e is rounded once, by up to 2^-12, and a once more; without the rounded-off parts e would be wrong by 0.1 and more.
    assert 0.1 < expected[tuple(first)][0, 3] < 0.2
    torch.testing.assert_close(got[tuple(first)].double(), expected[tuple(first)], rtol=0, atol=2e-3)


def covering(first, second):
    """(first, second, dtype): in float32 every two, in every other dtype each of both, with other partners."""
    every = [(a, b, torch.float32) for a in first for b in second]
    others = [
        (first[i % len(first)], second[(i + shift) % len(second)], dtype)
        for shift, dtype in enumerate([torch.float64, torch.float16])
        for i in range(max(len(first), len(second)))
    ]
    return every + others


POOLINGS = [((11, 14), (5, 6)), ((5, 4), (9, 13)), ((1, 1), (2, 2)), ((29, 2), (3, 2)), ((8, 8), (4, 2))]


@each_backend
@pytest.mark.parametrize(("size", "channels", "dtype"), covering(POOLINGS, [1, 6, 70]))
def test_area_pool2d(size, channels, dtype, backend, device):
    def pool(image, texture, weights, size, *, taps, prior, backend=None):
        return oracle.area_pool2d(image, size) if backend is None else tritonds.area_pool2d(image, size, backend=backend)

    case = Case(c=channels, size_in=size[0], size_out=size[1], dtype=dtype, texture=0, layers=0)
    assert_matches_oracle(pool, pool, case, device, backend=backend)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_area_pool2d_layouts(layout, device):
    x = arrange(torch.randn(2, 5, 9, 10, device=device), layout)
    y = tritonds.area_pool2d(x, (4, 3), backend="triton")
    assert error(y, oracle.area_pool2d(x.double(), (4, 3))) < 1e-6


GATHER_LAYOUTS = ["contiguous", "sliced", "channels_last", "expanded"]
GATHERS = [(((11, 14), (5, 6)), 2, 3), (((9, 8), (4, 3)), 5, 1), (((3, 4), (7, 9)), 4, 2), (((1, 2), (3, 3)), 3, 70)]


@each_backend
@pytest.mark.parametrize(("gather", "layout", "dtype"), covering(GATHERS, GATHER_LAYOUTS))
def test_weighted_gather2d(gather, layout, dtype, backend, device):
    (size_in, size_out), taps, channels = gather
    image = arrange(torch.randn(2, channels, *size_in, device=device).to(dtype), layout)
    a = arrange(torch.randn(2, taps**2, *size_out, device=device).to(dtype), layout)
    grad_output = torch.randn(2, channels, *size_out, device=device).to(dtype)

    def results(function, *inputs, **options):
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = function(*inputs, size_out, taps=taps, **options)
        return [y.detach(), *torch.autograd.grad(y, inputs, grad_output.to(y.dtype))]

    exact = results(oracle.weighted_gather2d, image.double(), a.double())
    got = results(tritonds.weighted_gather2d, image, a, backend=backend)
    eager = results(oracle.weighted_gather2d, image, a)
    for x, y, z in zip(got, exact, eager, strict=True):
        limit = {torch.float32: 1e-6, torch.float64: 1e-14}.get(dtype) or 2 * max(error(z, y), 2**-9 * (dtype.itemsize == 2))
        assert error(x, y) <= limit


@pytest.mark.parametrize("needs", ["image", "texture", "weights", "one weight", "nothing"])
def test_only_the_gradients_that_are_wanted(needs, device, monkeypatch):
    """Each is computed alone as it is with the others, and nothing is launched for those that are not wanted."""
    from tritonds.kernels import launchers as kernels

    launched = []
    original = kernels.launch.run
    monkeypatch.setattr(
        kernels.launch, "run", lambda kernel, *rest: (launched.append(kernel.__name__), original(kernel, *rest))
    )
    case = Case(n=1)
    inputs = leaves(make(case, device))
    everything = flatten(*inputs)
    y = tritonds.downsize(*inputs, case.size_out, backend="triton")
    all_grads = torch.autograd.grad(y.sum(), everything)
    wanted = {"image": [0], "texture": [1], "weights": range(2, len(everything)), "one weight": [3], "nothing": []}[needs]
    for index, tensor in enumerate(everything):
        tensor.requires_grad_(index in wanted)
    launched.clear()
    y = tritonds.downsize(*inputs, case.size_out, backend="triton")
    if not wanted:
        assert not y.requires_grad
        return
    for index, grad in zip(wanted, torch.autograd.grad(y.sum(), [everything[i] for i in wanted]), strict=True):
        torch.testing.assert_close(grad, all_grads[index], rtol=1e-6, atol=1e-7)
    last = {"image": "weighted_gather_grad_image_kernel", "texture": "area_pool_kernel"}.get(needs, "sum_rows_kernel")
    assert launched == ["downsize_kernel", "downsize_backward_kernel", last]


def test_matrix_products_follow_pytorchs_float32_precision(device, monkeypatch):
    from tritonds.kernels import launchers as kernels

    seen = []
    monkeypatch.setattr(
        kernels.launch, "run", lambda kernel, plan, tensors: seen.append(plan.arguments["C"].values["PRECISION"])
    )
    setting = torch.backends.cuda.matmul.fp32_precision
    try:
        for setting_now, dtype in [("ieee", torch.float32), ("tf32", torch.float32), ("tf32", torch.float64)]:
            torch.backends.cuda.matmul.fp32_precision = setting_now
            tritonds.downsize(*make(Case(dtype=dtype), device), (5, 6), backend="triton")
    finally:
        torch.backends.cuda.matmul.fp32_precision = setting
    assert seen == ["ieee", "tf32", "ieee"]
