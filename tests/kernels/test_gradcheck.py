"""Numerical derivatives, in float64, of the kernels and of the reference."""

import pytest
import torch
from cases import Case, each_backend, flatten, leaves, make

import tritonds

CASES = {
    "default": Case(n=1, c=2, size_in=(5, 4), size_out=(2, 3), distance=2, texture=2, hidden=3),
    "prior-hidden2": Case(
        n=1, c=1, size_in=(4, 5), size_out=(3, 2), taps=3, prior="antialias", distance=2, texture=1, hidden=2, layers=2
    ),
    "enlarging-no-hidden": Case(
        n=1, c=1, size_in=(2, 3), size_out=(4, 4), prior="bilinear", distance=1, texture=2, layers=0, layout="channels_last"
    ),
    "halved": Case(n=1, c=1, size_in=(4, 6), size_out=(2, 3), distance=1, texture=2, hidden=2, layout="channels_last"),
    "distance-only-hidden3": Case(n=1, c=1, size_in=(4, 4), size_out=(2, 2), distance=2, texture=0, hidden=2, layers=3),
}


@each_backend
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_downsize(case, backend, device):
    case = Case(**{**case.__dict__, "dtype": torch.float64})
    image, texture, weights = leaves(make(case, device))

    def function(*_):
        return tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)

    assert torch.autograd.gradcheck(function, flatten(image, texture, weights), fast_mode=backend == "triton")


@each_backend
def test_coefficients(backend, device):
    case = Case(n=1, c=1, size_in=(4, 5), size_out=(2, 2), distance=2, texture=2, hidden=2, dtype=torch.float64)
    image, texture, weights = leaves(make(case, device))

    def function(*_):
        return tritonds.coefficients(image, texture, weights, case.size_out, backend=backend, **case.options)

    assert torch.autograd.gradcheck(function, flatten(image, texture, weights)[1:], fast_mode=backend == "triton")


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), [((5, 4), (2, 3)), ((2, 3), (5, 4))])
def test_area_pool2d_and_weighted_gather2d(size_in, size_out, backend, device):
    image = torch.randn(1, 2, *size_in, dtype=torch.float64, device=device, requires_grad=True)
    a = torch.randn(1, 9, *size_out, dtype=torch.float64, device=device, requires_grad=True)
    fast = backend == "triton"
    assert torch.autograd.gradcheck(lambda x: tritonds.area_pool2d(x, size_out, backend=backend), image, fast_mode=fast)
    assert torch.autograd.gradcheck(
        lambda x, a: tritonds.weighted_gather2d(x, a, size_out, taps=3, backend=backend), (image, a), fast_mode=fast
    )
