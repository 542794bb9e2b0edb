"""What tests share: backends, dtypes, layouts, random inputs and networks, and the comparison with the oracle."""

import contextlib
from dataclasses import dataclass, replace

import hypothesis
import hypothesis.strategies as st
import oracle
import pytest
import torch
import torch.nn.functional as F

import tritonds

SHARPENING = ["bicubic", "lanczos"]
PRIORS = [None, "bilinear", "antialias", *SHARPENING]

BACKENDS = ["triton", "torch"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)

DTYPES = [torch.float32, torch.float64, torch.float16]
"""bfloat16 is for compiled kernels: the interpreter's arithmetic is no measure of it."""

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest error in the Euclidean norm, relative to the float64 oracle."""

HALF_FLOOR = {torch.float16: 2**-12, torch.bfloat16: 2**-9}
"""One rounding of the result; where the eager half-precision error is smaller still, it is by luck."""

MEAN = [0.485, 0.456, 0.406, 0.3, 0.7, 0.1, 0.9]
STD = [0.229, 0.224, 0.225, 0.3, 0.2, 0.4, 0.5]


@dataclass(frozen=True)
class Case:
    n: int = 2
    c: int = 3
    size_in: tuple[int, int] = (11, 14)
    size_texture: tuple[int, int] | None = None  # the image's size
    size_out: tuple[int, int] = (5, 6)
    taps: int = 2
    prior: str | None = None
    distance: int = 5
    texture: int = 6
    hidden: int = 7
    layers: int = 1
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float32

    @property
    def rows(self):
        """Of the output layer."""
        return self.taps**2 + (self.prior in SHARPENING)

    @property
    def options(self):
        return {"taps": self.taps, "prior": self.prior}


def arrange(x, layout):
    """The same values behind other strides; what lies between them is NaN."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        n, c, h, w = x.shape
        base = x.new_full((n, c + 1, 2 * h + 1, w + 3), float("nan"))
        view = base[:, 1:, 1::2, 2:-1]
        view.copy_(x)
        return view
    if layout == "sliced_channels_last":
        n, c, h, w = x.shape
        base = x.new_full((n, h, w + 2, 2 * c), float("nan"))
        view = base.permute(0, 3, 1, 2)[:, :c, :, 1:-1]
        view.copy_(x)
        return view
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    assert layout == "expanded"
    return x[:1].expand_as(x)


LAYOUTS = ("contiguous", "channels_last", "sliced", "sliced_channels_last", "transposed", "expanded")

PERIODIC = {
    "halved": Case(size_in=(36, 40), size_out=(18, 20), taps=8, prior="bicubic", texture=0, layout="channels_last"),
    "by-15/8": Case(size_in=(45, 60), size_out=(24, 32), taps=4, prior="antialias", texture=0, layers=2),
    "axes-that-differ": Case(size_in=(42, 36), size_out=(14, 24), taps=3, prior="lanczos", texture=0, layout="sliced"),
    "no-prior": Case(size_in=(22, 33), size_out=(10, 15), texture=0, layers=0, n=3),
    "bilinear": Case(size_in=(50, 30), size_out=(20, 25), taps=5, prior="bilinear", texture=0, c=2, layout="transposed"),
    "enlarging": Case(size_in=(15, 20), size_out=(21, 32), taps=6, prior="bicubic", texture=0),
    "same-size": Case(size_in=(17, 13), size_out=(17, 13), taps=2, prior="bilinear", texture=0, c=1),
    "by-12": Case(size_in=(120, 108), size_out=(10, 9), taps=2, texture=0, n=1),
    "half": Case(size_in=(30, 45), size_out=(20, 30), taps=4, prior="bicubic", texture=0, dtype=torch.float16),
    "double": Case(size_in=(36, 40), size_out=(18, 20), taps=8, prior="lanczos", texture=0, dtype=torch.float64),
}
"""Without texture, of sizes whose target pixels fall into few classes."""

_SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
RANDOM_CASES = st.builds(
    Case,
    n=st.integers(0, 2),
    c=st.integers(1, 5),
    size_in=_SIZES,
    size_texture=_SIZES,
    size_out=_SIZES,
    taps=st.integers(1, 5),
    prior=st.sampled_from(PRIORS),
    distance=st.integers(0, 6),
    texture=st.integers(0, 6),
    hidden=st.integers(1, 6),
    layers=st.integers(0, 3),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
).filter(lambda case: case.distance + case.texture > 0)


def given_random_cases(examples):
    """Run a test of (case, seed) so many times. Not shrunk, which takes minutes in the interpreter: a case prints itself."""
    settings = hypothesis.settings(max_examples=examples, phases=set(hypothesis.Phase) - {hypothesis.Phase.shrink})
    return lambda test: settings(hypothesis.given(case=RANDOM_CASES, seed=st.integers(0, 2**31))(test))


def make(case, device):
    """image, texture, weights: rounded to the case's dtype, so that the oracle sees the very same numbers."""

    def random(*shape):
        return torch.randn(*shape, device=device, dtype=torch.float64).to(case.dtype)

    image = arrange(random(case.n, case.c, *case.size_in), case.layout)
    texture = None
    if case.texture:
        texture = arrange(random(case.n, case.texture, *(case.size_texture or case.size_in)), case.layout)
    width = case.distance + case.texture
    hidden_weights, hidden_biases = [], []
    for _ in range(case.layers):
        hidden_weights.append(random(case.hidden, width) / width**0.5)
        hidden_biases.append(random(case.hidden) * 0.3)
        width = case.hidden
    weights = tritonds.CoefficientWeights(
        random(case.distance, 2 * case.taps) * 0.5 if case.distance else None,
        random(case.distance) * 0.3 if case.distance else None,
        tuple(hidden_weights),
        tuple(hidden_biases),
        random(case.rows, width) * 2 / width**0.5,
        random(case.rows) * 0.5,
    )
    return image, texture, weights


def make_image(case, device):
    """Image, texture weights and weights; the texture's as one tensor, (F, C * 9 + 1), behind whose columns is the bias."""
    image, _, weights = make(case, device)
    shape = (case.texture, case.c * 9 + 1)
    texture_weights = torch.randn(shape, device=device, dtype=torch.float64).to(case.dtype) / 3 if case.texture else None
    return image, texture_weights, weights


def make_uint8(case, device):
    """As :func:`make_image`, with pixels from 0 to 255 in the case's dtype, which holds them exactly."""
    image, texture_weights, weights = make_image(replace(case, layout="contiguous"), device)
    return torch.randint_like(image, 256), texture_weights, weights


def split(texture_weights, channels):
    """Weight, channels-last as a layer of DownsizeNet has it, and bias."""
    if texture_weights is None:
        return None, None
    weight = texture_weights[:, :-1].unflatten(1, (3, 3, channels)).permute(0, 3, 1, 2)
    return weight, texture_weights[:, -1]


def from_image(image, texture_weights, weights, size, **options):
    return tritonds.downsize_image(image, *split(texture_weights, image.shape[1]), weights, size, **options)


def oracle_from_image(image, texture_weights, weights, size, **options):
    weight, bias = split(texture_weights, image.shape[1])
    texture = None if weight is None else F.conv2d(image, weight, bias, padding=1).relu()
    return oracle.downsize(image, texture, weights, size, **options)


def from_uint8(image, texture_weights, weights, size, **options):
    c = image.shape[1]
    image = arrange(image.detach().to(torch.uint8), "channels_last" if size[0] % 2 else "contiguous")
    return from_image(image, texture_weights, weights, size, mean=MEAN[:c], std=STD[:c], **options)


def oracle_from_uint8(image, texture_weights, weights, size, **options):
    mean, std = (image.new_tensor(v[: image.shape[1]]).view(-1, 1, 1) for v in (MEAN, STD))
    return oracle_from_image((image.detach() / 255 - mean) / std, texture_weights, weights, size, **options)


LIST_SIZES = [(12, 16), (11, 14), (1, 1), (1, 9), (9, 1), (3, 4), (25, 6), (6, 8), (18, 8)]
"""Sizes of images that are downsized together."""


def images_of(sizes, device, dtype=torch.uint8, channels=3):
    """One by one with other strides: C last as decoded, C first, cut out of a larger one."""
    images = []
    for index, size in enumerate(sizes):
        image = torch.rand(1, channels, *size, device=device)
        image = (image * 256).to(torch.uint8) if dtype == torch.uint8 else image.to(dtype)
        if dtype == torch.uint8 and index % 3 == 2:
            image = F.pad(image, (1, 2, 3, 1), value=77)[:, :, 3:-1, 1:-2]
        elif index % 3:
            image = arrange(image, "channels_last" if index % 3 == 1 else "sliced")
        images.append(image[0])
    return images


def net_of(backend, size=(6, 8), **options):
    """A small layer that normalises; with the same options always the same."""
    net = tritonds.DownsizeNet(
        size, mean=MEAN[:3], std=STD[:3], texture_channels=6, distance_channels=5, hidden_channels=7, **options
    )
    torch.manual_seed(1)
    net.backend = backend
    return randomized(net, std=0.5)


def randomized(net, std=0.3):
    """``net`` with other parameters than those that it starts with: its output layer starts as zeros."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return net


def assert_same_parameters(net, expected, name="", rtol=1e-4, atol=1e-5):
    for (parameter, x), y in zip(net.named_parameters(), expected.parameters(), strict=True):
        what = f"{name} {parameter}"
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol, msg=lambda text, what=what: f"{what}: {text}")


@contextlib.contextmanager
def matmul_precision(name):
    """Set PyTorch's precision of float32 products on CUDA: "ieee" or "tf32"."""
    settings = torch.backends.cuda.matmul
    before, settings.fp32_precision = settings.fp32_precision, name
    try:
        yield
    finally:
        settings.fp32_precision = before


def flatten(image, texture, weights):
    """All tensors, in the order in which gradients are compared."""
    tensors = [image, texture, weights.distance_weight, weights.distance_bias]
    tensors += [*weights.hidden_weights, *weights.hidden_biases, weights.out_weight, weights.out_bias]
    return [t for t in tensors if t is not None]


def leaves(inputs, dtype=None):
    """Copies in ``dtype`` that want gradients; strides are kept unless the dtype changes."""

    def leaf(t):
        if t is None:
            return None
        copy = t.detach() if dtype is None or dtype == t.dtype else t.detach().to(dtype).contiguous()
        return copy.requires_grad_()

    image, texture, weights = inputs
    hidden_weights = tuple(leaf(t) for t in weights.hidden_weights)
    hidden_biases = tuple(leaf(t) for t in weights.hidden_biases)
    weights = tritonds.CoefficientWeights(
        leaf(weights.distance_weight), leaf(weights.distance_bias), hidden_weights, hidden_biases,
        leaf(weights.out_weight), leaf(weights.out_bias),
    )  # fmt: skip
    return leaf(image), leaf(texture), weights


def run(function, inputs, size, grad_output, **options):
    """The result and the gradients to all tensors that it depends on."""
    result = function(*inputs, size, **options)
    grads = torch.autograd.grad(result, flatten(*inputs), grad_output.to(result.dtype), allow_unused=True)
    return [result.detach(), *[g for g in grads if g is not None]]


def error(x, reference, least=0.0):
    """Relative to the reference's norm, or to ``least``, or to 1 where the reference is nothing but rounding around zero."""
    scale = reference.norm().clamp(min=least)
    difference = (x.double() - reference).norm()
    return (difference / scale if scale > 1e-10 else difference).item()


def assert_matches_oracle(function, oracle_function, case, device, make=make, **extra):
    """Values and gradients of ``function`` against the oracle in float64.

    Half precision may cost twice what it costs in eager PyTorch: the median over three draws, since in either a ReLU whose
    input rounds to the other side of zero now and then makes an error of its own size. Where many do, three are too few to
    tell: what fails gets twelve more, and a fault would show in those as well.
    """
    half = case.dtype in HALF_FLOOR
    draws = []
    for count in (3, 12) if half else (1,):
        draws += [_errors(function, oracle_function, make(case, device), case, extra) for _ in range(count)]
        got, eager = (torch.tensor(side) for side in zip(*draws, strict=True))
        got, limit = got.median(dim=0).values, torch.full_like(got[0], TOLERANCE.get(case.dtype, 0))
        if half:  # a draw that overflows in eager code allows nothing
            limit = 2 * eager.nanmedian(dim=0).values.clamp(min=HALF_FLOOR[case.dtype])
        if (got <= limit).all():
            return
    raise AssertionError(f"{case}: errors {got.tolist()} of the result and each gradient, allowed {limit.tolist()}")


def _errors(function, oracle_function, inputs, case, extra):
    """Errors of the result and of each gradient, and those of the eager oracle in the case's dtype."""
    size, device = case.size_out, inputs[0].device
    exact_inputs = leaves(inputs, torch.float64)
    shape = oracle_function(*exact_inputs, size, **case.options).shape
    grad_output = torch.randn(shape, dtype=torch.float64, device=device).to(case.dtype)
    exact = run(oracle_function, exact_inputs, size, grad_output, **case.options)
    got = run(function, leaves(inputs), size, grad_output, **case.options, **extra)
    for x, y in zip(got, exact, strict=True):
        assert x.dtype == case.dtype
        assert x.shape == y.shape
    if case.dtype not in HALF_FLOOR:
        # The softmax's gradient is a difference of numbers as large as image times gradient. Where it nearly cancels, its
        # relative error has no bound: in eager float32, too, it passes 1e-5 in some draws of a small network. There, a
        # millionth of those numbers is allowed: a dozen roundings.
        least = 0.1 * (inputs[0].abs().max() * grad_output.norm()).item() if grad_output.numel() else 0.0
        return [error(got[0], exact[0]), *[error(x, y, least) for x, y in zip(got[1:], exact[1:], strict=True)]], []
    errors = [error(x, y) for x, y in zip(got, exact, strict=True)]
    eager = run(oracle_function, leaves(inputs, case.dtype), size, grad_output, **case.options)
    return errors, [error(x, y) for x, y in zip(eager, exact, strict=True)]
