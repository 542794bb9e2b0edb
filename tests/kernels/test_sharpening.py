"""Priors with negative coefficients, against other people's interpolation, and what always holds of them.

Parity with the oracle is in test_parity.py, test_compiled.py and their like, as for all priors.
"""

import math

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from cases import SHARPENING, Case, each_backend, error, flatten, leaves, make, net_of, randomized
from PIL import Image

import tritonds

REACH = {"bicubic": 2, "lanczos": 3}
SIZES = [((12, 8), (6, 4)), ((13, 17), (8, 11)), ((5, 4), (11, 9)), ((12, 3), (7, 8)), ((7, 7), (7, 7)), ((1, 6), (1, 4))]
"""Of scales up to 2."""


def taps_for(prior, size_in, size_out):
    """As few taps as make the untrained layer exact."""
    scale = max(1, *(n_in / n_out for n_in, n_out in zip(size_in, size_out, strict=True)))
    return 2 * math.ceil(REACH[prior] * scale)


def untrained(backend, device, **options):
    """The layer as it starts, in float64."""
    return tritonds.DownsizeNet(backend=backend, **options).to(device, torch.float64)


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_the_untrained_layer_is_pytorchs_antialiased_bicubic(size_in, size_out, backend, device):
    image = torch.randn(2, 3, *size_in, dtype=torch.float64, device=device)
    net = untrained(backend, device, prior="bicubic", taps=taps_for("bicubic", size_in, size_out))
    expected = F.interpolate(image, size_out, mode="bicubic", antialias=True)
    assert error(net(image, size_out), expected) < 1e-12
    given = tritonds.downsize(image, image, network_of(net), size_out, taps=net.taps, prior="bicubic", backend=backend)
    assert error(given, expected) < 1e-12


def network_of(net):
    """Its coefficient network, for the image itself as texture."""
    weights = net.weights()
    return weights._replace(hidden_weights=(weights.hidden_weights[0][:, :19].contiguous(),))


@each_backend
@pytest.mark.parametrize(("size_in", "size_out"), [((12, 8), (9, 6)), ((5, 4), (11, 9)), ((7, 7), (7, 7)), ((4, 6), (3, 13))])
def test_the_untrained_layer_is_pillows_lanczos(size_in, size_out, backend, device):
    """Pillow's results are of float32."""
    image = torch.randn(1, 1, *size_in, dtype=torch.float64, device=device)
    net = untrained(backend, device, prior="lanczos", taps=taps_for("lanczos", size_in, size_out), in_channels=1)
    picture = Image.fromarray(image[0, 0].float().cpu().numpy())
    expected = torch.from_numpy(np.array(picture.resize(size_out[::-1], Image.Resampling.LANCZOS))).to(device)
    assert error(net(image, size_out)[0, 0], expected.double()) < 1e-6


@each_backend
@pytest.mark.parametrize("prior", SHARPENING)
@pytest.mark.parametrize("taps", [2, 5, 8])
def test_a_window_that_is_cut_is_normalised(taps, prior, backend, device):
    size_in, size_out = (37, 29), (7, 6)
    image = torch.randn(1, 3, *size_in, dtype=torch.float64, device=device)
    net = untrained(backend, device, prior=prior, taps=taps)
    a = net.coefficients(image, size_out)
    expected = oracle.window(oracle.signed_axis, image, size_out, taps, prior).movedim(-1, 0)[None]
    assert error(a, expected) < 1e-12
    torch.testing.assert_close(a.sum(dim=1), torch.ones_like(a[:, 0]))


@each_backend
@pytest.mark.parametrize("prior", SHARPENING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coefficients_sum_to_1_and_some_are_negative(dtype, prior, backend, device):
    case = Case(taps=6, prior=prior, dtype=dtype)
    image, texture, weights = make(case, device)
    a = tritonds.coefficients(image, texture, weights, case.size_out, backend=backend, **case.options)
    assert (a < 0).any()
    torch.testing.assert_close(a.sum(dim=1), torch.ones_like(a[:, 0]), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)


@each_backend
@pytest.mark.parametrize("prior", SHARPENING)
def test_without_strength_it_is_the_antialiasing_prior(prior, backend, device):
    image, texture, weights = make(Case(taps=4, prior=prior), device)
    plain = weights._replace(out_weight=weights.out_weight[:-1], out_bias=weights.out_bias[:-1])
    weights.out_weight[-1], weights.out_bias[-1] = 0, 0
    got = tritonds.downsize(image, texture, weights, (5, 6), taps=4, prior=prior, backend=backend)
    expected = tritonds.downsize(image, texture, plain, (5, 6), taps=4, prior="antialias", backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@each_backend
@pytest.mark.parametrize("prior", SHARPENING)
@pytest.mark.parametrize("size_in", [(6, 7), (12, 14), (12, 21)])
def test_taps_on_zeros_of_the_kernel_count_for_nothing(size_in, prior, backend, device):
    """Where a tap lies whole pixels from the centre, b is exactly zero. At an odd scale and an odd window some do."""
    case = Case(n=1, taps=7, prior=prior, size_in=size_in, size_out=(6, 7))
    image = make(case, device)[0]
    a = tritonds.DownsizeNet((6, 7), taps=7, prior=prior, backend=backend).to(device).coefficients(image)
    exact = oracle.window(oracle.signed_axis, image.double(), (6, 7), 7, prior).movedim(-1, 0)[None]
    zero = exact == 0
    assert zero.any()
    assert (a[zero] == 0).all()
    assert (a[~zero] != 0).all()


@each_backend
def test_outside_the_image_there_is_nothing(backend, device):
    """A tap there repeats an edge pixel, with a coefficient of exactly zero; an infinite logit of its own changes nothing."""
    case = Case(n=1, taps=6, prior="lanczos", size_in=(9, 9), size_out=(4, 4))
    image, texture, weights = make(case, device)
    bias = weights.out_bias.clone()
    bias[0] = float("inf")  # of the window's corner
    corner = (slice(None), slice(None), slice(1), slice(1))
    results = [
        tritonds.coefficients(image, texture, w, (4, 4), backend=backend, **case.options)[corner].flatten()
        for w in (weights, weights._replace(out_bias=bias))
    ]
    outside = torch.tensor([[y < 2 or x < 2 for x in range(6)] for y in range(6)], device=device).flatten()
    assert (results[0][outside] == 0).all()
    assert torch.equal(*results)


@each_backend
@pytest.mark.parametrize("prior", SHARPENING)
def test_gradients(prior, backend, device):
    """Numerical ones; that of g's bias is not zero."""
    case = Case(n=1, c=1, size_in=(3, 4), size_out=(2, 2), taps=3, prior=prior, distance=1, texture=1, hidden=1)
    image, texture, weights = leaves(make(case, device), torch.float64)

    def function(*_):
        return tritonds.downsize(image, texture, weights, case.size_out, backend=backend, **case.options)

    (grad,) = torch.autograd.grad(function().square().sum(), weights.out_bias)
    assert grad[-1] != 0
    assert torch.autograd.gradcheck(function, flatten(image, texture, weights), fast_mode=backend == "triton")


@each_backend
def test_lists_and_letterboxes_are_what_each_image_is_alone(backend, device):
    net = net_of(backend, taps=4, prior="bicubic").to(device)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, device=device) for size in [(9, 12), (7, 5), (12, 16)]]
    for letterbox in (False, True):
        together = net(images, letterbox=letterbox)
        together = together.images if letterbox else together
        for row, image in zip(together, images, strict=True):
            alone = net([image], letterbox=letterbox)
            torch.testing.assert_close(row, (alone.images if letterbox else alone)[0], rtol=1e-5, atol=1e-6)


def test_backends_agree_where_a_module_is_called(device):
    """As after a hook: the output layer gives a row more."""
    net = randomized(tritonds.DownsizeNet((5, 6), taps=4, prior="bicubic", backend="torch")).to(device)
    image = torch.rand(2, 3, 11, 9, device=device)
    expected = net(image)
    net.out.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(net(image), expected, rtol=1e-5, atol=1e-6)
    net.out = torch.nn.Sequential(torch.nn.Linear(16, 16)).to(device)
    with pytest.raises(ValueError, match=r"out: expected to give \(60, 17\) \(pixels, taps\*taps \+ 1 \(prior 'bicubic'\)\)"):
        net(image)
