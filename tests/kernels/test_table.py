"""Without texture: coefficients once for all target pixels that lie alike, in a table, and weighted sums by that."""

import itertools
from dataclasses import replace

import oracle
import pytest
import torch
import torch.nn.functional as F
from cases import (
    HALF_FLOOR,
    MEAN,
    PERIODIC,
    STD,
    TOLERANCE,
    Case,
    assert_matches_oracle,
    error,
    from_image,
    from_uint8,
    leaves,
    make_image,
    make_uint8,
    oracle_from_image,
    oracle_from_uint8,
    randomized,
)

import tritonds
from tritonds import DownsizeNet, repeats

KERNELS = ["coefficient_table_kernel", "tabulated_sum_kernel"]


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """The module, for which two target pixels a class are enough: small images have few."""
    from tritonds.kernels import launchers

    monkeypatch.setattr(launchers.table, "PIXELS_A_CLASS", 2)
    monkeypatch.setattr(repeats, "_known", {})
    launchers.table.table_plan.cache_clear()
    yield launchers.table
    launchers.table.table_plan.cache_clear()


@pytest.fixture
def launched(monkeypatch, table):
    """The names of the kernels that took a fused one's place."""
    names, launch = [], table.launch
    monkeypatch.setattr(table, "launch", lambda kernel, *args: (names.append(kernel.__name__), launch(kernel, *args))[1])
    return names


def assert_values(function, oracle_function, case, device):
    """Without gradients, whose kernel is the fused one, and slow with many taps."""
    inputs = (make_uint8 if function is from_uint8 else make_image)(case, device)
    exact = oracle_function(*leaves(inputs, torch.float64), case.size_out, **case.options)
    eager = oracle_function(*leaves(inputs, case.dtype), case.size_out, **case.options)
    got = function(*inputs, case.size_out, backend="triton", **case.options)
    assert error(got, exact) <= (TOLERANCE.get(case.dtype) or 2 * max(error(eager, exact), HALF_FLOOR[case.dtype]))


@pytest.mark.parametrize("case", PERIODIC.values(), ids=PERIODIC)
def test_values(case, launched, device):
    assert_values(from_image, oracle_from_image, case, device)
    assert launched == ([] if case.dtype == torch.float64 else KERNELS)


@pytest.mark.parametrize("name", ["halved", "axes-that-differ", "half"])
def test_uint8(name, launched, device):
    assert_values(from_uint8, oracle_from_uint8, PERIODIC[name], device)
    assert launched == KERNELS


@pytest.mark.parametrize("name", ["by-15/8", "axes-that-differ", "no-prior", "by-12"])
def test_all_gradients(name, launched, device):
    assert_matches_oracle(from_image, oracle_from_image, PERIODIC[name], device, make=make_image, backend="triton")
    assert launched == KERNELS


OTHERS = {
    "many": Case(c=6, size_in=(20, 24), size_out=(10, 12), texture=0, n=1),
    "many-channels-last": Case(c=6, size_in=(20, 24), size_out=(10, 12), texture=0, layout="channels_last", taps=3),
    "expanded": Case(size_in=(20, 24), size_out=(10, 12), texture=0, layout="expanded"),
    "wide-network": Case(size_in=(20, 24), size_out=(10, 12), texture=0, distance=17, layers=3, hidden=5),
}
LONG = {
    "wide": Case(n=1, c=1, size_in=(6, 400), size_out=(3, 200), taps=2, texture=0, prior="bilinear"),
    "wide-channels-last": Case(n=1, c=2, size_in=(8, 225), size_out=(4, 120), taps=3, texture=0, layout="channels_last"),
    "tall": Case(n=1, c=1, size_in=(300, 8), size_out=(150, 4), taps=1, texture=0, layers=0),
}


@pytest.mark.parametrize("case", (OTHERS | LONG).values(), ids=OTHERS | LONG)
def test_channels_layouts_and_long_axes(case, launched, device):
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="triton")
    assert launched[:2] == KERNELS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "case", [PERIODIC["by-15/8"], replace(PERIODIC["bilinear"], layout="channels_last")], ids=["by-15/8", "bilinear"]
)
def test_bad_pixels_reach_what_they_reach_in_the_reference(case, bad, launched, device):
    image, _, weights = make_image(case, device)
    for y, x in itertools.product((0, 20, case.size_in[0] - 1), (0, 1, 13, case.size_in[1] - 1)):
        spoilt = image.clone()
        spoilt[0, 1, y, x] = bad
        given, expected = (
            from_image(spoilt, None, weights, case.size_out, backend=b, **case.options) for b in ("triton", "torch")
        )
        assert torch.equal(given.isfinite(), expected.isfinite())
        assert not given.isfinite().all()
    assert launched


def test_bits_depend_on_no_other_image_and_on_no_gradient(launched, device):
    net = DownsizeNet((24, 32), taps=4, prior="bicubic", texture_channels=0, mean=MEAN[:3], std=STD[:3], backend="triton")
    randomized(net).to(device)
    images = torch.randint(256, (3, 3, 45, 60), dtype=torch.uint8, device=device)
    trained = net(images)
    with torch.no_grad():
        served, alone = net(images), net(images[1:2])
    assert torch.equal(trained, served)
    assert torch.equal(served[1:2], alone)
    assert launched


def test_untrained_it_is_bicubic_interpolation(launched, device):
    net = DownsizeNet((24, 32), taps=8, prior="bicubic", texture_channels=0, backend="triton").to(device)
    image = torch.rand(2, 3, 45, 60, device=device)
    expected = F.interpolate(image, (24, 32), mode="bicubic", antialias=True)
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-5)
    assert launched


def test_a_batch_of_none(device):
    net = DownsizeNet((24, 32), texture_channels=0, backend="triton").to(device)
    y = net(torch.rand(0, 3, 45, 60, device=device))
    y.sum().backward()
    assert y.shape == (0, 3, 24, 32)
    assert not net.out.bias.grad.any()


def test_not_for_lists_letterboxes_and_many_classes(launched, device):
    net = DownsizeNet((24, 32), texture_channels=0, backend="triton").to(device)
    images = [torch.rand(3, 45, 60, device=device), torch.rand(3, 48, 64, device=device)]
    net(images)
    net(images[0].unsqueeze(0), letterbox=True)
    net(torch.rand(1, 3, 45, 61, device=device), (23, 31))
    assert not launched


COMPILED = {
    "uint8": (from_uint8, oracle_from_uint8, replace(PERIODIC["halved"], n=1, size_in=(22, 80), size_out=(11, 40))),
    "bytes-of-one-channel": (from_uint8, oracle_from_uint8, replace(PERIODIC["by-15/8"], c=1)),
    "float": (from_image, oracle_from_image, replace(PERIODIC["by-15/8"], size_in=(45, 150), size_out=(24, 80))),
    "sliced": (from_image, oracle_from_image, PERIODIC["axes-that-differ"]),
    "half": (from_image, oracle_from_image, replace(PERIODIC["half"], layout="channels_last")),
    "enlarging": (from_image, oracle_from_image, replace(PERIODIC["enlarging"], n=1, dtype=torch.bfloat16)),
    "many-channels": (from_image, oracle_from_image, OTHERS["many"]),
}


@pytest.mark.compiled
@pytest.mark.parametrize(("function", "oracle_function", "case"), COMPILED.values(), ids=COMPILED)
def test_compiled(function, oracle_function, case, launched, device):
    """Rows of more pixels than a program takes at once have some with taps beyond an edge, and some without."""
    assert_values(function, oracle_function, case, device)
    assert launched == KERNELS


@pytest.mark.compiled
def test_indices_of_64_bits_change_no_bit(table, device, monkeypatch):
    wide, launch = [], table.launch
    monkeypatch.setattr(
        table, "launch", lambda k, plan, *rest: (wide.append(plan.arguments["C"].values["INDEX64"]), launch(k, plan, *rest))
    )
    case = COMPILED["float"][2]
    image, _, weights = make_image(case, device)
    expected = from_image(image, None, weights, case.size_out, backend="triton", **case.options)
    monkeypatch.setattr(table, "MAX_INT32", 0)
    monkeypatch.setattr(repeats, "_known", {})
    table.table_plan.cache_clear()
    got = from_image(image, None, weights, case.size_out, backend="triton", **case.options)
    assert torch.equal(got, expected)
    assert wide == [False, False, True, True]


@pytest.mark.compiled
def test_repeated_calls(launched, device):
    """They make a table of their own, of the weights as they are then."""
    nets = [
        DownsizeNet((12, 16), taps=4, prior="bicubic", texture_channels=0, backend=b).to(device) for b in ("triton", "torch")
    ]
    images = [torch.rand(1, 3, 24, 32, device=device) for _ in range(3)]
    before = []
    for image in images:
        nets[1].load_state_dict(randomized(nets[0]).state_dict())
        got, expected = (net(image) for net in nets)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        gradients = [
            torch.autograd.grad(y.square().sum(), list(n.parameters())) for n, y in zip(nets, (got, expected), strict=True)
        ]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        before.append(nets[0](image).detach())
    assert launched == KERNELS  # the others repeated this call
    with torch.no_grad():
        first, second = ([nets[0](image) for image in images] for _ in range(2))
    assert launched == 2 * KERNELS
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[2], before[2])
