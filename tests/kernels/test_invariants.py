"""What always holds, whatever the weights."""

from dataclasses import replace

import pytest
import torch
from cases import BACKENDS, PRIORS, Case, each_backend, flatten, leaves, make, run

import tritonds

CASES = {
    "taps2": Case(),
    "taps3-bilinear": Case(taps=3, prior="bilinear", size_in=(9, 4), size_out=(4, 9)),
    "taps4-antialias": Case(taps=4, prior="antialias"),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_backend
@each_case
def test_coefficients_are_a_partition_of_one(case, backend, device):
    a = tritonds.coefficients(*make(case, device), case.size_out, backend=backend, **case.options)
    assert (a >= 0).all()
    torch.testing.assert_close(a.sum(dim=1), torch.ones_like(a[:, 0]), rtol=0, atol=1e-6)


@each_backend
@each_case
def test_constant_images_are_preserved(case, backend, device):
    image, texture, weights = make(case, device)
    y = tritonds.downsize(torch.full_like(image, 0.7), texture, weights, case.size_out, backend=backend, **case.options)
    torch.testing.assert_close(y, torch.full_like(y, 0.7), rtol=1e-6, atol=0)


@each_backend
@each_case
def test_results_lie_within_the_range_of_their_taps(case, backend, device):
    image, texture, weights = make(case, device)
    y = tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)
    taps2 = case.taps**2
    windows = []
    for k in range(taps2):
        one = torch.zeros(case.n, taps2, *case.size_out, device=device)
        one[:, k] = 1
        windows.append(tritonds.weighted_gather2d(image, one, case.size_out, taps=case.taps, backend="torch"))
    stacked = torch.stack(windows)
    assert (y <= stacked.amax(0) + 1e-6).all()
    assert (y >= stacked.amin(0) - 1e-6).all()


@each_backend
@each_case
def test_each_image_is_resized_as_if_alone(case, backend, device):
    image, texture, weights = make(replace(case, n=3), device)
    together = tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)
    for index in range(3):
        one = slice(index, index + 1)
        alone = tritonds.downsize(image[one], texture[one], weights, case.size_out, backend=backend, **case.options)
        if backend == "triton":
            assert torch.equal(alone, together[one])
        else:  # PyTorch's matrix products may sum in another order in another batch
            torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-6)


@each_backend
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("taps", [2, 4])
def test_mirrored_images_give_mirrored_results(dim, taps, backend, device):
    """If the weights are mirrored with them: distances change sign and order, taps change order.

    And if no target pixel sits on a source pixel, where an even window must lean to one side.
    """
    case = Case(taps=taps, prior="antialias", size_in=(11, 14), size_out=(4, 5))
    image, texture, weights = make(case, device)
    y = tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)
    axis = dim - 2
    distance = weights.distance_weight.unflatten(1, (2, taps)).clone()
    distance[:, axis] = -distance[:, axis].flip(1)
    out_weight = weights.out_weight.unflatten(0, (taps, taps)).flip(axis).flatten(0, 1)
    out_bias = weights.out_bias.unflatten(0, (taps, taps)).flip(axis).flatten()
    mirrored = weights._replace(distance_weight=distance.flatten(1), out_weight=out_weight, out_bias=out_bias)
    z = tritonds.downsize(image.flip(dim), texture.flip(dim), mirrored, case.size_out, backend=backend, **case.options)
    torch.testing.assert_close(z.flip(dim), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(513, 179), (179, 513), (768, 230), (1000, 333), (300, 160), (2049, 683)])
@pytest.mark.parametrize("taps", [1, 2, 3])
def test_backends_read_the_same_pixels_where_float_geometry_would_not(sizes, taps, device):
    """An image of its own pixel indices shows which pixel a tap reads; one row suffices."""
    n_in, n_out = sizes
    image = torch.arange(n_in, dtype=torch.float64, device=device).view(1, 1, 1, n_in)
    for k in range(taps):
        one = torch.zeros(1, taps**2, 1, n_out, dtype=torch.float64, device=device)
        one[:, (taps // 2) * taps + k] = 1
        read = [tritonds.weighted_gather2d(image, one, (1, n_out), taps=taps, backend=b) for b in BACKENDS]
        assert torch.equal(*read)


@each_backend
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_pixels_stay_local(bad, backend, device):
    case = Case(n=2, size_in=(24, 20), size_out=(11, 9), taps=3)
    image, texture, weights = make(case, device)
    good = tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)
    image[1, 2, 12, 10] = bad
    y = tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)
    spoilt = ~torch.isfinite(y)
    rows, columns = spoilt[1, 2].nonzero(as_tuple=True)
    assert 1 <= spoilt.sum() <= 9
    assert spoilt.sum() == spoilt[1, 2].sum()
    assert rows.max() - rows.min() < 3
    assert columns.max() - columns.min() < 3
    assert torch.equal(y[~spoilt], good[~spoilt])


@each_backend
@pytest.mark.parametrize("taps", [3, 5, 6, 7])
def test_a_bad_pixel_below_the_window_reaches_nothing(taps, backend, device):
    """Where a kernel's taps are padded to a power of two, the padding's would lie there."""
    image = torch.ones(1, 1, taps + 2, taps, device=device)
    image[..., -1, :] = float("nan")
    a = torch.full((1, taps**2, 1, 1), 1 / taps**2, device=device)
    torch.testing.assert_close(tritonds.weighted_gather2d(image, a, (1, 1), taps=taps, backend=backend), image[..., :1, :1])
    for prior in (None, "bicubic"):
        net = tritonds.DownsizeNet((1, 1), taps=taps, prior=prior, texture_channels=0, in_channels=1, backend=backend)
        y = net.to(device)(image)
        torch.testing.assert_close(y, image[..., :1, :1])
        (grad,) = torch.autograd.grad(y.sum(), net.out.bias)
        assert grad.isfinite().all()


@each_backend
def test_bad_texture_stays_local(backend, device):
    case = Case(n=2, size_in=(24, 20), size_out=(11, 9))
    image, texture, weights = make(case, device)
    good = tritonds.downsize(image, texture, weights, case.size_out, backend=backend)
    texture[1, 2, 12, 10] = float("nan")
    y = tritonds.downsize(image, texture, weights, case.size_out, backend=backend)
    spoilt = y.isnan()
    assert 3 <= spoilt.sum() <= 4 * 3
    assert spoilt[1].any(dim=0).sum() * 3 == spoilt.sum()
    assert torch.equal(y[~spoilt], good[~spoilt])


@each_backend
def test_large_values_stay_finite(backend, device):
    x = torch.full((1, 1, 60, 60), 3e35, device=device)
    torch.testing.assert_close(tritonds.area_pool2d(x, (7, 7), backend=backend), torch.full((1, 1, 7, 7), 3e35, device=device))


@pytest.mark.parametrize(("prior", "length"), [("lanczos", 310_000_000), *((prior, 1_200_000_000) for prior in PRIORS)])
@pytest.mark.parametrize("taps", [2, 8])
def test_axes_of_a_billion_pixels(taps, prior, length, device):
    """Of one pixel in memory. Neither 32 bits of an integer nor float32's range may end there."""
    image = torch.ones(1, 1, 1, 1, device=device).expand(1, 1, 1, length)
    net = tritonds.DownsizeNet((1, 2), taps=taps, prior=prior, texture_channels=0, in_channels=1, backend="triton").to(device)
    torch.testing.assert_close(net(image), torch.ones(1, 1, 1, 2, device=device))


@each_backend
def test_an_infinite_logit_under_a_prior_of_zero_counts_for_nothing(backend, device):
    case = Case(taps=8, prior="bilinear", size_in=(9, 9), size_out=(4, 4))
    image, texture, weights = make(case, device)
    out_bias = weights.out_bias.clone()
    out_bias[0] = float("inf")  # the window's corner, more than a pixel from its centre
    y = tritonds.downsize(image, texture, weights._replace(out_bias=out_bias), case.size_out, backend=backend, **case.options)
    assert y.isfinite().all()


@each_case
def test_same_input_same_bits(case, device):
    inputs = make(replace(case, n=2, size_in=(23, 29), size_out=(11, 19)), device)
    grad_output = torch.randn(2, 3, 11, 19, device=device)
    first, second = (
        run(tritonds.downsize, leaves(inputs), (11, 19), grad_output, backend="triton", **case.options) for _ in range(2)
    )
    assert len(first) == 1 + len(flatten(*inputs))
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


def test_tiles_do_not_change_the_result(device, monkeypatch, fresh_plans):
    """A GPU's small tiles, in the interpreter; there, where they are in use anyway, other ones."""
    from tritonds.kernels import launchers as kernels

    case = Case(n=2, size_in=(19, 23), size_out=(9, 11), taps=3, prior="bilinear")
    inputs = make(case, device)
    grad_output = torch.randn(2, 3, 9, 11, device=device)
    expected = run(tritonds.downsize, leaves(inputs), case.size_out, grad_output, backend="triton", **case.options)
    for module in (kernels.plan, kernels.area_pool, kernels.gather):
        monkeypatch.setattr(module, "tile_shape", lambda pixels: (4, 8))
    monkeypatch.setattr(kernels.plan, "MAX_BACKWARD_PROGRAMS", 3)
    monkeypatch.setattr(kernels.launch, "ENOUGH_PROGRAMS", 6)  # two tiles a program, and one in the last of a column
    got = run(tritonds.downsize, leaves(inputs), case.size_out, grad_output, backend="triton", **case.options)
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


class TestLargeTensors:
    """Beyond 2^31 elements or products: the 64-bit path gives what the 32-bit path gives."""

    def test_forced(self, device, monkeypatch, fresh_plans):
        from tritonds.kernels import launchers as kernels

        case = Case(taps=3, prior="antialias", layers=2, layout="channels_last")
        inputs = make(case, device)
        grad_output = torch.randn(2, 3, *case.size_out, device=device)
        narrow = run(tritonds.downsize, leaves(inputs), case.size_out, grad_output, backend="triton", **case.options)
        for module in (kernels.plan, kernels.area_pool, kernels.gather):
            monkeypatch.setattr(module, "needs_int64", lambda axes, layouts: True)
        wide = run(tritonds.downsize, leaves(inputs), case.size_out, grad_output, backend="triton", **case.options)
        for x, y in zip(narrow, wide, strict=True):
            assert torch.equal(x, y)

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_strides_beyond_2_31(self, dim, device, monkeypatch):
        """A small view whose elements lie gigabytes apart; the memory between them is never touched."""
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        step = 2**30 + 3
        base = torch.empty(2 * step + 16, dtype=torch.float16, device=device)
        strides = [0, 4, 2, 1]
        strides[dim] = step
        shape = [1, 1, 1, 1]
        shape[dim] = 3
        x = base.as_strided(shape, strides)
        x.copy_(torch.arange(1.0, 4.0).view(shape))
        size = (1 if dim != 2 else 2, 1 if dim != 3 else 2)
        y = tritonds.area_pool2d(x, size, backend="triton")
        assert torch.equal(y, tritonds.area_pool2d(x.contiguous(), size, backend="triton"))
        quarter = torch.full((1, 4, *size), 0.25, dtype=torch.float16, device=device)
        z = tritonds.weighted_gather2d(x, quarter, size, backend="triton")
        assert torch.equal(z, tritonds.weighted_gather2d(x.contiguous(), quarter, size, backend="triton"))

    def test_products_beyond_2_31(self, device, monkeypatch):
        """(2j + 1) * n_in overflows 32 bits along an axis of 70,000 pixels."""
        from tritonds.kernels import launchers as kernels

        for module in (kernels.area_pool, kernels.gather):
            monkeypatch.setattr(module, "tile_shape", lambda pixels: (1, 2**17 if device.type == "cpu" else 256))
        x = torch.rand(1, 1, 1, 70_000, dtype=torch.float64, device=device, requires_grad=True)
        a = torch.rand(1, 4, 1, 69_001, dtype=torch.float64, device=device, requires_grad=True)
        results = []
        for backend in BACKENDS:
            pooled = tritonds.area_pool2d(x, (1, 35_001), backend=backend)
            gathered = tritonds.weighted_gather2d(x, a, (1, 69_001), backend=backend)
            weight = torch.arange(69_001, dtype=torch.float64, device=device)
            grads = torch.autograd.grad((gathered * weight).sum() + pooled.square().sum(), [x, a])
            results.append([pooled, gathered, *grads])
        for y, z in zip(*results, strict=True):
            torch.testing.assert_close(y, z)

    def test_needed_no_sooner_than_it_is(self, device):
        from tritonds.kernels import launchers as kernels

        assert kernels.launch.needs_int64([(70_000, 35_001)], [])
        small, large = torch.empty(64, 16, 4320, 7680, device="meta"), torch.empty(1, 2**12, 2**10, 2**10, device="meta")
        assert not kernels.launch.needs_int64([(4320, 7680)], [kernels.launch.layout(small)])
        assert kernels.launch.needs_int64([(8, 8)], [kernels.launch.layout(large)])

    def test_needed_for_what_the_backward_kernel_stores(self):
        """K*K coefficients per output pixel pass 2^31 where neither image nor result does."""
        from tritonds.kernels import launchers as kernels

        seen = []
        for side in (5000, 6000):
            image = torch.empty(1, 1, side, side, device="meta")
            weights = [torch.empty(shape, device="meta") for shape in [(1, 16), (1,), (64, 1), (64,)]]
            grads = (torch.empty_like(image), None, torch.empty(145, device="meta"))
            with kernels.launch.record() as launches:
                kernels.downsize_backward(image, image, None, weights, True, *grads, 8, "none")
            seen += [launch.arguments["C"].values.get("INDEX64") for launch in launches]
        assert seen == [False, False, None, True, True, None]  # sums need no choice
