"""The PyTorch backend on CPUs: the same result in strips of any height; what it needs; where the reference stays."""

import warnings
from dataclasses import replace

import oracle
import pytest
import torch
from cases import (
    LIST_SIZES,
    MEAN,
    STD,
    Case,
    assert_matches_oracle,
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
)
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import tritonds
from bench.cpu import peak_bytes
from tritonds import reference, strip, strips
from tritonds.coefficient_weights import flatten as flatten_weights

CASES = {
    "fractional": Case(),
    "halved": Case(size_in=(12, 16), size_out=(6, 8), layout="channels_last"),
    "halved-antialias": Case(size_in=(12, 16), size_out=(6, 8), taps=4, prior="antialias"),
    "halved-bicubic": Case(size_in=(12, 16), size_out=(6, 8), taps=8, prior="bicubic", texture=0),
    "one-axis-whole": Case(size_in=(12, 13), size_out=(4, 5), taps=3, prior="bilinear", layers=2),
    "prime": Case(size_in=(23, 29), size_out=(7, 11), taps=5, layout="sliced_channels_last"),
    "enlarging": Case(size_in=(5, 4), size_out=(9, 13), taps=3, prior="antialias"),
    "fractional-lanczos": Case(taps=3, prior="lanczos", layers=0),
    "from-one-pixel": Case(size_in=(1, 1), size_out=(3, 2), taps=4),
    "distance-only": Case(texture=0, layout="sliced"),
    "texture-only": Case(distance=0, layers=3),
    "no-hidden": Case(layers=0, n=3),
    "double": Case(dtype=torch.float64),
    "half": Case(dtype=torch.float16, layers=2),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(params=[1, 3000], ids=["rows", "strips"])
def low(request, monkeypatch):
    """Strips of one target row; and of a few, the last one of fewer."""
    monkeypatch.setattr(strip, "STRIP_BYTES", request.param)


@each_case
def test_from_images(case, low, device):
    assert_matches_oracle(from_image, oracle_from_image, case, device, make=make_image, backend="torch")


@each_case
def test_given_texture(case, low, device):
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="torch")


@pytest.mark.parametrize("size", [(6, 19), (3, 2)])
def test_texture_of_another_size(size, low, device):
    case = Case(size_texture=size)
    assert_matches_oracle(tritonds.downsize, oracle.downsize, case, device, backend="torch")


@pytest.mark.parametrize("name", ["fractional", "halved"])
def test_uint8(name, low, device):
    assert_matches_oracle(from_uint8, oracle_from_uint8, CASES[name], device, make=make_uint8, backend="torch")


def test_images_of_no_batch(device):
    image, texture_weights, weights = leaves(make_image(Case(n=0), device))
    y = from_image(image, texture_weights, weights, (5, 6), backend="torch")
    assert y.shape == (0, 3, 5, 6)
    assert all((g == 0).all() for g in torch.autograd.grad(y.sum(), flatten(image, texture_weights, weights)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sizes", [((12, 16), (6, 8)), ((13, 17), (5, 6)), ((4, 5), (9, 7))])
def test_bad_pixels_reach_what_they_reach_in_the_reference(sizes, bad, low, device, monkeypatch):
    image, texture_weights, weights = make_image(Case(n=1, size_in=sizes[0]), device)
    for y, x in [(0, 0), (3, 4), (sizes[0][0] - 1, 1)]:
        spoilt = image.clone()
        spoilt[0, 1, y, x] = bad
        given = from_image(spoilt, texture_weights, weights, sizes[1], backend="torch")
        with monkeypatch.context() as patch:
            patch.setattr(strips, "can_run", lambda tensors: False)
            expected = from_image(spoilt, texture_weights, weights, sizes[1], backend="torch")
        assert torch.equal(given.isfinite(), expected.isfinite())
        assert 3 <= (~given.isfinite()).sum() < given.numel()


@pytest.mark.parametrize("prior", ["antialias", "bicubic"])
@torch.no_grad()
def test_what_the_prior_leaves_out_stays_out(prior, low):
    """Whatever the network says of it: here of the window's corner, whose prior is 0 everywhere."""
    net = tritonds.DownsizeNet((7, 9), taps=8, prior=prior, backend="torch")
    torch.nn.init.normal_(net.out.weight)
    image = torch.rand(1, 3, 12, 16)
    expected = net(image)
    net.out.bias[0] = 200
    assert torch.equal(net(image), expected)


@pytest.mark.parametrize("size", [(2, 2), (3, 2)], ids=["fractional", "halved"])
def test_second_derivatives(size, low, device):
    """Also where one argument is made of another one."""
    case = Case(n=1, c=2, size_in=(6, 5), distance=2, texture=2, hidden=2, dtype=torch.float64, prior="bilinear")
    image, texture_weights, weights = leaves(make_image(case, device))
    tensors = flatten(image, texture_weights, weights)

    def function(*_):
        return from_image(
            image * weights.out_bias.sum(), texture_weights, weights, size, backend="torch", mean=MEAN[:2], std=STD[:2]
        )

    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)
    first, again = (torch.autograd.grad(function().sum(), tensors, create_graph=twice) for twice in (False, True))
    torch.testing.assert_close(first, again)


def test_only_the_gradients_that_are_wanted(low, device):
    image, texture_weights, weights = leaves(make_image(Case(), device))
    everything = flatten(image, texture_weights, weights)
    expected = torch.autograd.grad(from_image(image, texture_weights, weights, (5, 6), backend="torch").sum(), everything)
    for wanted, grad in zip(everything, expected, strict=True):
        for tensor in everything:
            tensor.requires_grad_(tensor is wanted)
        (alone,) = torch.autograd.grad(from_image(image, texture_weights, weights, (5, 6), backend="torch").sum(), wanted)
        torch.testing.assert_close(alone, grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backward", [False, True])
def test_needs_no_more_than_two_results_and_a_strip(backward, monkeypatch):
    """In strips of a few rows; the gradients of the parameters are small."""
    monkeypatch.setattr(strip, "STRIP_BYTES", 1 << 18)
    net, image = net_of("torch", (200, 300)), torch.rand(1, 3, 600, 900)
    output = 3 * 200 * 300 * 4
    # Under a strip there are, beside the features, pixels that are normalised, and padded, and activations and their gradients.
    temporaries = strip.STRIP_BYTES * (12 if backward else 4)
    with torch.set_grad_enabled(backward):
        run = (lambda: net(image).sum().backward()) if backward else (lambda: net(image))
        run()
        assert peak_bytes(run) <= 2 * output + temporaries < 6 * 600 * 900 * 4


def test_saves_its_inputs_alone():
    net = net_of("torch")
    parameters = {t.data_ptr() for t in net.parameters()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        batch = torch.rand(2, 3, 12, 16)
        net(batch)
    assert set(saved) == parameters | {batch.data_ptr()}


def test_fits_pytorchs_checks_of_operators():
    image, texture, weights = leaves(make(Case(n=1), torch.device("cpu")))
    options = (True, 5, 6, 2, "bilinear", None, None, torch.float32)
    torch.library.opcheck(strips.strips, (image, texture, [], flatten_weights(weights), *options))
    image, texture, weights = make(Case(n=1), torch.device("cpu"))
    grad = torch.ones(1, 3, 5, 6)
    torch.library.opcheck(
        strips.strips_backward, (grad, image, texture, [], flatten_weights(weights), *options, [True, True, True])
    )


def test_compiles_whole_with_gradients():
    net = net_of("torch")
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for given in (images_of(LIST_SIZES[:3], torch.device("cpu")), torch.rand(2, 3, 12, 16)):
        results = [f(given) for f in (compiled, net)]
        torch.testing.assert_close(*results)
        grads = [torch.autograd.grad(y.sum(), list(net.parameters())) for y in results]
        torch.testing.assert_close(*grads)


def test_new_sizes_do_not_recompile():
    graphs = []
    net = net_of("torch")

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=backend)
    for shape in [(9, 3, 10, 14), (2, 3, 17, 13), (4, 3, 5, 19)]:
        image = torch.rand(shape)
        assert torch.equal(compiled(image), net(image))
    assert len(graphs) == 1


class TestTheReferenceStays:
    """Where PyTorch wants to see the single operations."""

    @pytest.fixture
    def net(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("computed in strips")

        monkeypatch.setattr(strips, "strips", refuse)
        return net_of("torch")

    def test_for_flops(self, net):
        with FlopCounterMode(display=False) as counter:
            net(torch.rand(1, 3, 12, 16))
        assert torch.ops.aten.convolution in counter.get_flop_counts()["Global"]

    def test_in_forward_mode(self, net):
        with forward_ad.dual_level():
            image = forward_ad.make_dual(torch.rand(1, 3, 12, 16), torch.rand(1, 3, 12, 16))
            assert forward_ad.unpack_dual(net(image)).tangent is not None

    @pytest.mark.parametrize("transform", [torch.func.vmap, lambda net: torch.func.grad(lambda x: net(x[0]).square().sum())])
    def test_in_compiled_transforms(self, transform, net):
        image = torch.rand(2, 1, 3, 12, 16)
        function = transform(net)
        torch.testing.assert_close(torch.compile(function, backend="aot_eager")(image), function(image))

    def test_for_other_devices(self, net):
        assert net.to("meta")(torch.empty(1, 3, 12, 16, device="meta")).shape == (1, 3, 6, 8)

    def test_for_exported_programs(self, net):
        torch.export.export(net, (torch.rand(1, 3, 12, 16),))

    def test_for_traces(self, net):
        """Of TorchScript, which would need tritonds to load one with strips."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript's end, and of sizes that become constants
            torch.jit.trace(net, torch.rand(1, 3, 12, 16), check_trace=False)  # the check calls the network itself


def test_strips_equal_the_reference_for_large_images():
    """With the strips that are in use: several, at the edges of which nothing is missing or counted twice."""
    image, texture_weights, weights = make_image(replace(Case(n=1), size_in=(700, 900), texture=16), torch.device("cpu"))
    weight, bias = texture_weights[:, :-1].unflatten(1, (3, 3, 3)).permute(0, 3, 1, 2), texture_weights[:, -1]
    for size in ((350, 450), (333, 200)):
        y = from_image(image, texture_weights, weights, size, backend="torch")
        expected = reference.downsize_image(image, weight, bias, weights, size)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
