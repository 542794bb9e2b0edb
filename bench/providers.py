"""Who is measured: every implementation by name, on the same tensors, and the check that it computes the right thing."""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import tritonds
from tritonds import methods, ops, strips

from .workloads import AUTOTUNED, DTYPES, MEAN, STD, Workload

Function = Callable[[], Tensor]

# Relative to float64 on the same rounded inputs. In half precision a result follows from up to eight roundings, of texture, its
# mean, the layers' activations (at most five), and itself: 8 unit roundoffs, of 2**-11 and 2**-8. In float32 the roundings of
# sums count, of up to some hundred terms. Normalising an image in half precision adds four roundings, not all of one sign.
TOLERANCE = {"fp32": 1e-5, "fp16": 8 * 2.0**-11, "bf16": 8 * 2.0**-8}

ORACLES = {"operator": "reference", "network": "net-eager", "image": "image-eager"}
"""Which provider, in float64, says what is right; of the kinds that are not here, each is its own."""
COPIES = ("copy", "image-copy")
"""Kinds that move bytes and compute nothing."""


class Problem:
    """A workload's tensors on a device, each made when it is first wanted. The random numbers are the same each time."""

    def __init__(self, workload: Workload, mode: str, device: torch.device) -> None:
        w = workload
        self.workload = workload
        self.mode = mode
        self.device = device
        self.dtype = DTYPES[w.dtype]
        self.layout = torch.channels_last if w.channels_last else torch.contiguous_format
        torch.manual_seed(0)
        net = tritonds.DownsizeNet(
            w.size, in_channels=w.channels, taps=w.taps, prior=w.prior, texture_channels=w.texture_channels,
            distance_channels=w.hidden, hidden_channels=w.hidden, hidden_layers=w.layers, backend="torch",
        )  # fmt: skip
        torch.nn.init.normal_(net.out.weight)  # zeros would hide errors in the layers before
        self.net = net.to(device, self.dtype)  # its convolutions are channels-last by themselves, whatever the image is
        self._expected: dict[str, tuple[Tensor, Sequence[Tensor]]] = {}

    @functools.cached_property
    def image(self) -> Tensor:
        torch.manual_seed(1)
        return self._arranged(torch.rand(*self._shape(self.workload.channels), device=self.device))

    @functools.cached_property
    def texture(self) -> Tensor:
        torch.manual_seed(2)
        return self._arranged(torch.rand(*self._shape(self.workload.texture_channels), device=self.device)).requires_grad_()

    @functools.cached_property
    def pictures(self) -> Tensor | list[Tensor]:
        """Images of uint8: a batch, or a list of tensors (C, H, W) if their sizes differ."""
        torch.manual_seed(3)
        w = self.workload
        return [self._decoded(1, *size)[0] for size in w.sizes] if w.sizes else self._decoded(w.batch, *w.image)

    @functools.cached_property
    def grad_output(self) -> Tensor:
        torch.manual_seed(4)
        w = self.workload
        return self._arranged(torch.randn(w.batch, w.channels, *w.size, device=self.device))

    def source(self, kind: str) -> Tensor:
        """What a copy of that kind reads: half of the bytes that it moves, a row for each image."""
        torch.manual_seed(5)
        batch, moved = self.workload.batch, self.workload.necessary_bytes(kind, self.mode)
        return torch.rand(batch, moved // (2 * 4 * batch), device=self.device)

    def expected(self, provider: str) -> tuple[Tensor, Sequence[Tensor]]:
        """Output and gradients in float64 for the last image of the batch, the one at the largest offsets."""
        kind = PROVIDERS[provider].kind
        if kind in COPIES:
            return self.source(kind)[-1:], ()
        oracle = ORACLES.get(kind, provider)
        if oracle not in self._expected:
            function, inputs = PROVIDERS[oracle].prepare(self._last(kind))
            backward = self.mode == "forward+backward"
            with torch.set_grad_enabled(backward), whole_images():
                output = function()
            gradients = torch.autograd.grad(output, inputs, self.grad_output[-1:].double()) if backward else ()
            self._expected[oracle] = output.detach(), gradients
        return self._expected[oracle]

    def _last(self, kind: str) -> "Problem":
        """The last image's part of what providers of this kind read, in float64."""
        last = copy.copy(self)
        last.dtype = torch.float64
        last.net = copy.deepcopy(self.net).double()
        if kind.startswith("image"):
            last.pictures = self.pictures[-1:]
        else:
            last.image = self.image[-1:].double()
            last.texture = self.texture.detach()[-1:].double().requires_grad_()
        return last

    def _shape(self, channels: int) -> tuple[int, ...]:
        return self.workload.batch, channels, *self.workload.image

    def _arranged(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).contiguous(memory_format=self.layout)

    def _decoded(self, batch: int, height: int, width: int) -> Tensor:
        """As decoders give images: a pixel's channels side by side; unless the workload is channels-first."""
        x = torch.randint(256, (batch, height, width, self.workload.channels), dtype=torch.uint8, device=self.device)
        return x.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)


@contextlib.contextmanager
def whole_images() -> Iterator[None]:
    """Have the PyTorch backend compute by :mod:`tritonds.reference` on CPUs too, where it works in strips otherwise."""
    with mock.patch.object(strips, "can_run", return_value=False):
        yield


@dataclass(frozen=True)
class Provider:
    """An implementation. ``prepare`` gives the function to be timed, and the tensors whose gradients a training wants."""

    kind: str
    prepare: Callable[[Problem], tuple[Function, Sequence[Tensor]]]
    fused: bool = False


@dataclass(frozen=True)
class Errors:
    """The output's is the largest difference over the largest value; the gradients' is the worst one's, in Euclidean norm."""

    output: float
    gradient: float | None
    output_tolerance: float
    gradient_tolerance: float

    @property
    def acceptable(self) -> bool:
        """Whether both errors are within their tolerances. A NaN is not."""
        gradient = self.gradient is None or self.gradient <= self.gradient_tolerance
        return self.output <= self.output_tolerance and gradient


def build(name: str, problem: Problem) -> tuple[Function, Sequence[Tensor]]:
    """The function to be timed, and what to differentiate it by: nothing in mode forward."""
    torch._dynamo.reset()  # so that nothing is compiled for the sizes of an earlier one too, or not at all for their number
    function, inputs = PROVIDERS[name].prepare(problem)
    return function, inputs if problem.mode == "forward+backward" else ()


def unavailable(name: str, device: torch.device) -> str | None:
    """Why a provider cannot be measured on this device, or None if it can."""
    if not PROVIDERS[name].fused:
        return None
    if device.type != "cuda":
        return "the Triton kernels need a GPU"
    if ops.HAS_TRITON and ops.why_no_triton("cpu") is None:
        return "Triton's interpreter is on (TRITON_INTERPRET), which says nothing about speed"
    return ops.why_no_triton(device.type)


def errors(name: str, problem: Problem, function: Function, inputs: Sequence[Tensor]) -> Errors:
    """Compare one run with float64.

    The gradients are those of the last image's share of the output, so that they are known from that image alone.
    """
    expected_output, expected_gradients = problem.expected(name)
    with torch.inference_mode(not inputs):
        output = function()
    gradient = None
    if inputs:
        grad_output = torch.zeros_like(problem.grad_output)
        grad_output[-1:] = problem.grad_output[-1:]
        gradients = torch.autograd.grad(output, inputs, grad_output)
        gradient = max(map(_gradient_error, gradients, expected_gradients), key=lambda e: math.inf if math.isnan(e) else e)
    difference = (output[-1:].detach().double() - expected_output).abs().max()
    return Errors((difference / expected_output.abs().max()).item(), gradient, *_tolerances(name, problem))


def _gradient_error(gradient: Tensor, expected: Tensor) -> float:
    """The error in the Euclidean norm. The images before the last have gradients of zero."""
    count = expected.shape[0]
    difference = torch.linalg.vector_norm(gradient[-count:].double() - expected)
    elsewhere = torch.linalg.vector_norm(gradient[: gradient.shape[0] - count], dtype=torch.float32)
    return (torch.hypot(difference, elsewhere.double()) / torch.linalg.vector_norm(expected)).item()


def _tolerances(name: str, problem: Problem) -> tuple[float, float]:
    """The tolerances of output and gradients."""
    kind, w = PROVIDERS[name].kind, problem.workload
    if kind in COPIES:
        return 0.0, 0.0
    tolerance = TOLERANCE[w.dtype]
    if kind.endswith("interpolation"):
        # PyTorch's positions are float32 numbers as large as the image. Antialiased, its GPU kernels also round the weights
        # and their sum, along each axis. Gradients are linear in the same weights.
        tolerance = max(2 * tolerance, max(w.image) * 2.0**-22)
        return tolerance, tolerance
    if kind in ("network", "image") and w.dtype == "fp32" and problem.device.type == "cuda":
        tolerance = TOLERANCE["fp16"]  # by default PyTorch convolves in TF32, whose mantissa is that of float16
    # A ReLU whose input rounds across zero has a gradient that is wrong entirely. A share of about ``tolerance`` does, and
    # the norm grows with the root of the share.
    return tolerance, math.sqrt(tolerance)


def _operator(backend: str, **compile_options: Any) -> Callable[[Problem], tuple[Function, Sequence[Tensor]]]:
    def prepare(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
        w, weights = problem.workload, problem.net.weights()
        function: Any = torch.compile(tritonds.downsize, **compile_options) if compile_options else tritonds.downsize
        options = {"taps": w.taps, "prior": w.prior, "backend": backend}
        inputs = [problem.texture, *(p for n, p in problem.net.named_parameters() if not n.startswith("texture."))]
        return functools.partial(function, problem.image, problem.texture, weights, w.size, **options), inputs

    return prepare


def _network(backend: str, **compile_options: Any) -> Callable[[Problem], tuple[Function, Sequence[Tensor]]]:
    def prepare(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
        net = copy.copy(problem.net)
        net.backend = backend
        function = torch.compile(net, **compile_options) if compile_options else net
        return functools.partial(function, problem.image), list(net.parameters())

    return prepare


def _interpolation(resize: methods.Resize) -> Callable[[Problem], tuple[Function, Sequence[Tensor]]]:
    def prepare(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
        image = problem.image.detach().requires_grad_()
        return functools.partial(resize, image, problem.workload.size), [image]

    return prepare


def _image_network(backend: str) -> Callable[[Problem], tuple[Function, Sequence[Tensor]]]:
    """The layer, which normalises by itself."""

    def prepare(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
        net = copy.copy(problem.net)
        net.backend, net.mean, net.std = backend, list(MEAN), list(STD)
        return functools.partial(net, problem.pictures), list(net.parameters())

    return prepare


def _image_composed(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
    """Normalisation and texture by PyTorch, in memory, then the fused operator; images of different sizes one by one."""
    w, net = problem.workload, problem.net
    mean, std = _normalization(problem)
    texture = net.texture
    assert texture is not None

    def resize(x: Tensor) -> Tensor:
        x = x.to(problem.dtype).div_(255).sub_(mean).div_(std)
        return tritonds.downsize(x, texture(x), net.weights(), w.size, taps=w.taps, prior=w.prior, backend="triton")

    return functools.partial(_batched, resize, problem.pictures), list(net.parameters())


def _image_interpolation(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
    mean, std = _normalization(problem)

    def resize(x: Tensor) -> Tensor:
        x = methods.INTERPOLATIONS["bilinear-aa"](x.to(problem.dtype).div_(255), problem.workload.size)
        return x.sub_(mean).div_(std)

    return functools.partial(_batched, resize, problem.pictures), ()


def _normalization(problem: Problem) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, of the shape of a pixel."""
    mean, std = (torch.tensor(x, dtype=problem.dtype, device=problem.device).view(-1, 1, 1) for x in (MEAN, STD))
    return mean, std


def _batched(resize: Callable[[Tensor], Tensor], pictures: Tensor | list[Tensor]) -> Tensor:
    """One batch of images that are one, or come in a list."""
    return resize(pictures) if isinstance(pictures, Tensor) else torch.cat([resize(x.unsqueeze(0)) for x in pictures])


def _copy(kind: str) -> Callable[[Problem], tuple[Function, Sequence[Tensor]]]:
    def prepare(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
        source = problem.source(kind)
        return functools.partial(torch.empty_like(source).copy_, source), ()

    return prepare


PROVIDERS = {
    "fused": Provider("operator", _operator("triton"), fused=True),
    "reference": Provider("operator", _operator("torch")),
    "reference-compiled": Provider("operator", _operator("torch", dynamic=False)),
    AUTOTUNED: Provider("operator", _operator("torch", dynamic=False, mode="max-autotune-no-cudagraphs")),
    "net-fused": Provider("network", _network("triton"), fused=True),
    "net-eager": Provider("network", _network("torch")),
    "net-compiled": Provider("network", _network("torch", dynamic=False)),
    "net-fused-compiled": Provider("network", _network("triton", dynamic=False), fused=True),
    **{
        name: Provider("interpolation", _interpolation(methods.INTERPOLATIONS[name]))
        for name in ("bilinear", "bilinear-aa", "bicubic-aa")
    },
    # PyTorch's, as a peer: its bins are of whole pixels, those of the method "area" have fractional edges.
    "area": Provider("interpolation", _interpolation(functools.partial(F.interpolate, mode="area"))),
    "copy": Provider("copy", _copy("copy")),
    "image-fused": Provider("image", _image_network("triton"), fused=True),
    "image-composed": Provider("image", _image_composed, fused=True),
    "image-eager": Provider("image", _image_network("torch")),
    "image-bilinear-aa": Provider("image-interpolation", _image_interpolation),
    "image-copy": Provider("image-copy", _copy("image-copy")),
}
