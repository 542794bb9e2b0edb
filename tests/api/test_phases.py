"""Layers without texture on CPUs: coefficients of each class of target pixels once, and weighted sums as convolutions."""

import oracle
import pytest
import torch
import torch.nn.functional as F
from cases import (
    MEAN,
    PERIODIC,
    STD,
    Case,
    arrange,
    assert_matches_oracle,
    flatten,
    from_image,
    from_uint8,
    leaves,
    make_image,
    make_uint8,
    oracle_from_image,
    oracle_from_uint8,
)

import tritonds
from bench.cpu import peak_bytes
from tritonds import DownsizeNet, geometry, phases, strip, strips

each_case = pytest.mark.parametrize("case", PERIODIC.values(), ids=PERIODIC)


def axes_of(case):
    return phases.axes_of(case.size_in, case.size_out, case.taps)


@pytest.fixture(params=[1, 3000, 8 << 20], ids=["rows", "strips", "whole"])
def low(request, monkeypatch):
    """Strips of one target row; of a few, the last one of fewer; of all."""
    monkeypatch.setattr(strip, "STRIP_BYTES", request.param)


@pytest.fixture
def sums(monkeypatch):
    """The strips that were computed as convolutions."""
    calls = []
    apply = phases.WeightedSum.apply
    monkeypatch.setattr(phases.WeightedSum, "apply", lambda *args: calls.append(args) or apply(*args))
    return calls


@each_case
def test_with_all_gradients(case, low, device):
    assert axes_of(case) is not None
    assert_matches_oracle(from_image, oracle_from_image, case, device, make=make_image, backend="torch")


@each_case
def test_as_convolutions(case, low, sums, device):
    """No gradient to the image, as in training."""
    assert_matches_oracle(frozen_image(tritonds.downsize), frozen_image(oracle.downsize), case, device, backend="torch")
    assert bool(sums) == (case.dtype != torch.float64)


def frozen_image(function):
    return lambda image, *args, **options: function(image.detach(), *args, **options) + 0 * image.sum()


@pytest.mark.parametrize("name", ["halved", "axes-that-differ"])
def test_uint8(name, low, sums, device):
    assert_matches_oracle(from_uint8, oracle_from_uint8, PERIODIC[name], device, make=make_uint8, backend="torch")
    assert sums


@pytest.mark.parametrize("taps", range(1, 9))
def test_target_pixels_of_one_class_lie_alike(taps):
    """Equal distances to their taps, and the same of these inside the image: seen from each pixel, one by one."""
    checked = 0
    for n_in in range(1, 40, 2 if taps % 2 else 3):
        for n_out in range(1, 40):
            axis = phases.Axis(n_in, n_out, taps)
            if not axis.is_periodic:
                continue
            checked += 1
            for j, number in enumerate(axis.numbers(range(n_out))):
                assert described(axis, j) == described(axis, axis.targets[number])
            assert axis.numbers(range(3, n_out)) == axis.numbers(range(n_out))[3:]
            rows = [
                (j, r.number)
                for r in axis.rows(range(n_out))
                for j in range(r.start, r.start + r.length * axis.period, axis.period)
            ]
            assert sorted(rows) == list(enumerate(axis.numbers(range(n_out))))
            columns = [n for c in axis.columns for n in c.classes * c.blocks]
            assert columns == axis.numbers(range(n_out))
    assert checked > 100


def described(axis, j):
    taps = [geometry.first_tap(j, axis.n_in, axis.n_out, axis.taps) + k for k in range(axis.taps)]
    return [(geometry.distance_numerator(i, j, axis.n_in, axis.n_out), 0 <= i < axis.n_in) for i in taps]


@pytest.mark.parametrize("sizes", [((179, 513), (513, 179)), ((12, 16), (6, 8)), ((2000, 2000), (1990, 1990))])
def test_not_where_there_are_about_as_many_classes_as_pixels(sizes):
    assert phases.axes_of(*sizes, 8) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_bad_pixels_reach_what_they_reach_in_the_reference(bad, low, device, monkeypatch):
    """3e38 is finite, and its sum with itself is not."""
    case = PERIODIC["by-15/8"]
    image, _, weights = make_image(case, device)
    for y, x in [(0, 0), (20, 31), (case.size_in[0] - 1, 1)]:
        spoilt = image.clone()
        spoilt[0, 1, y, x] = spoilt[0, 1, y, x - 1] = bad
        given = from_image(spoilt, None, weights, case.size_out, backend="torch", **case.options)
        with monkeypatch.context() as patch:
            patch.setattr(strips, "can_run", lambda tensors: False)
            expected = from_image(spoilt, None, weights, case.size_out, backend="torch", **case.options)
        assert torch.equal(given.isfinite(), expected.isfinite())
        assert (~given.isfinite()).sum() < given.numel() / 4


def test_bad_gradients_stay_with_their_class(device):
    """A target pixel on an edge has coefficients of its own; what it says is not what the others say."""
    y, x = axes_of(PERIODIC["halved"])
    table = torch.rand(64, 1, len(y.targets), len(x.targets), requires_grad=True)
    image = arrange(torch.rand(1, 1, 36, 40), "contiguous")
    result = phases.WeightedSum.apply(image, 0, (y, x), range(18), *phases.filters(table, y, x))
    grad = torch.ones_like(result)
    grad[0, 0, 0, 3] = float("nan")
    (grad,) = torch.autograd.grad(result, table, grad)
    bad = grad.isnan().flatten(0, 1).all(dim=0)
    assert torch.equal(bad, grad.isnan().flatten(0, 1).any(dim=0))
    assert bad.nonzero().tolist() == [[0, x.numbers(range(3, 4))[0]]]


def test_second_derivatives(device):
    case = Case(
        n=1, c=2, size_in=(12, 15), size_out=(8, 10), distance=2, texture=0, hidden=2, dtype=torch.float64, prior="bicubic"
    )
    assert axes_of(case) is not None
    image, _, weights = leaves(make_image(case, device))
    tensors = flatten(image, None, weights)
    function = lambda *_: from_image(image, None, weights, case.size_out, backend="torch", **case.options)  # noqa: E731
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_untrained_it_is_bicubic_interpolation(layout, sums):
    net = DownsizeNet((48, 64), taps=8, prior="bicubic", texture_channels=0, backend="torch")
    image = arrange(torch.rand(2, 3, 90, 120), layout)
    expected = F.interpolate(image, (48, 64), mode="bicubic", antialias=True)
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-5)
    assert sums


@pytest.mark.parametrize("backward", [False, True])
def test_needs_no_more_than_two_results_and_a_strip(backward, monkeypatch):
    monkeypatch.setattr(strip, "STRIP_BYTES", 1 << 18)
    net, image = (
        DownsizeNet((400, 600), taps=4, prior="antialias", texture_channels=0, backend="torch"),
        torch.rand(1, 3, 1000, 1500),
    )
    output = 3 * 400 * 600 * 4
    with torch.set_grad_enabled(backward):
        run = (lambda: net(image).sum().backward()) if backward else (lambda: net(image))
        run()
        assert peak_bytes(run) <= 2 * output + strip.STRIP_BYTES * (12 if backward else 4) < image.nbytes


def test_trains_after_inference_of_the_same_size():
    """What is kept of a size was made in inference mode."""
    phases.axes_of.cache_clear()
    net, image = (
        DownsizeNet((24, 32), taps=4, prior="antialias", texture_channels=0, mean=MEAN[:3], std=STD[:3]),
        torch.rand(1, 3, 45, 60),
    )
    with torch.inference_mode():
        expected = net(image)
    result = net(image)
    result.sum().backward()
    torch.testing.assert_close(result.detach(), expected, rtol=0, atol=0)
