"""Who is measured: every implementation by name, on the same tensors, and the check that it computes the right thing."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import tritonds
from tritonds import ops

from .workloads import AUTOTUNED, DTYPES, Workload

Function = Callable[[], Tensor]

# Relative to float64 on the same rounded inputs. In half precision a result follows from up to eight roundings, of texture, its
# mean, the layers' activations (at most five), and itself: 8 unit roundoffs, of 2**-11 and 2**-8. In float32 the roundings of
# sums count, of up to some hundred terms.
TOLERANCE = {"fp32": 1e-5, "fp16": 8 * 2.0**-11, "bf16": 8 * 2.0**-8}


class Problem:
    """A workload's tensors on a device. The random numbers are the same each time."""

    def __init__(self, workload: Workload, mode: str, device: torch.device) -> None:
        torch.manual_seed(0)
        w, dtype = workload, DTYPES[workload.dtype]
        layout = torch.channels_last if w.channels_last else torch.contiguous_format

        def arranged(x: Tensor) -> Tensor:
            return x.to(dtype).contiguous(memory_format=layout)

        self.workload = workload
        self.mode = mode
        self.image = arranged(torch.rand(w.batch, w.channels, *w.image, device=device))
        self.texture = arranged(torch.rand(w.batch, w.features, *w.image, device=device)).requires_grad_()
        self.grad_output = arranged(torch.randn(w.batch, w.channels, *w.size, device=device))
        net = tritonds.DownsizeNet(
            w.size, in_channels=w.channels, taps=w.taps, prior=w.prior, texture_channels=w.features,
            distance_channels=w.hidden, hidden_channels=w.hidden, hidden_layers=w.layers, backend="torch",
        )  # fmt: skip
        torch.nn.init.normal_(net.out.weight)  # zeros would hide errors in the layers before
        self.net = net.to(device, dtype)  # its convolutions are channels-last by themselves, whatever the image is
        self._expected: dict[str, tuple[Tensor, Sequence[Tensor]]] = {}

    @functools.cached_property
    def source(self) -> Tensor:
        """What a copy reads: half of the bytes that the operator moves, a row for each image."""
        batch, moved = self.workload.batch, self.workload.necessary_bytes("copy", self.mode)
        return torch.rand(batch, moved // (2 * 4 * batch), device=self.image.device)

    def expected(self, provider: str) -> tuple[Tensor, Sequence[Tensor]]:
        """Output and gradients in float64 for the last image of the batch, the one at the largest offsets."""
        kind = PROVIDERS[provider].kind
        if kind == "copy":
            return self.source[-1:], ()
        oracle = {"operator": "reference", "network": "net-eager"}.get(kind, provider)
        if oracle not in self._expected:
            last = copy.copy(self)
            last.image = self.image[-1:].double()
            last.texture = self.texture.detach()[-1:].double().requires_grad_()
            last.net = copy.deepcopy(self.net).double()
            function, inputs = PROVIDERS[oracle].prepare(last)
            backward = self.mode == "forward+backward"
            with torch.set_grad_enabled(backward):
                output = function()
            gradients = torch.autograd.grad(output, inputs, self.grad_output[-1:].double()) if backward else ()
            self._expected[oracle] = output.detach(), gradients
        return self._expected[oracle]


@dataclass(frozen=True)
class Provider:
    """An implementation. ``prepare`` gives the function to be timed, and the tensors whose gradients a training wants."""

    kind: str
    prepare: Callable[[Problem], tuple[Function, Sequence[Tensor]]]
    fused: bool = False


@dataclass(frozen=True)
class Errors:
    """Of an output, the largest difference over the largest value; of gradients, the worst one's in the Euclidean norm."""

    output: float
    gradient: float | None
    output_tolerance: float
    gradient_tolerance: float

    @property
    def acceptable(self) -> bool:
        """Written such that a NaN is not."""
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
    """In the Euclidean norm; the images before the last have gradients of zero."""
    count = expected.shape[0]
    difference = torch.linalg.vector_norm(gradient[-count:].double() - expected)
    elsewhere = torch.linalg.vector_norm(gradient[: gradient.shape[0] - count], dtype=torch.float32)
    return (torch.hypot(difference, elsewhere.double()) / torch.linalg.vector_norm(expected)).item()


def _tolerances(name: str, problem: Problem) -> tuple[float, float]:
    """For output and gradients."""
    kind, w = PROVIDERS[name].kind, problem.workload
    if kind == "copy":
        return 0.0, 0.0
    tolerance = TOLERANCE[w.dtype]
    if kind == "interpolation":
        # PyTorch's positions are float32 numbers as large as the image. Antialiased, its GPU kernels also round the weights
        # and their sum, along each axis. Gradients are linear in the same weights.
        tolerance = max(2 * tolerance, max(w.image) * 2.0**-22)
        return tolerance, tolerance
    if kind == "network" and w.dtype == "fp32" and problem.image.is_cuda:
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


def _interpolation(mode: str, **options: Any) -> Callable[[Problem], tuple[Function, Sequence[Tensor]]]:
    def prepare(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
        image = problem.image.detach().requires_grad_()
        return functools.partial(F.interpolate, image, problem.workload.size, mode=mode, **options), [image]

    return prepare


def _copy(problem: Problem) -> tuple[Function, Sequence[Tensor]]:
    return functools.partial(torch.empty_like(problem.source).copy_, problem.source), ()


PROVIDERS = {
    "fused": Provider("operator", _operator("triton"), fused=True),
    "reference": Provider("operator", _operator("torch")),
    "reference-compiled": Provider("operator", _operator("torch", dynamic=False)),
    AUTOTUNED: Provider("operator", _operator("torch", dynamic=False, mode="max-autotune-no-cudagraphs")),
    "net-fused": Provider("network", _network("triton"), fused=True),
    "net-eager": Provider("network", _network("torch")),
    "net-compiled": Provider("network", _network("torch", dynamic=False)),
    "net-fused-compiled": Provider("network", _network("triton", dynamic=False), fused=True),
    "bilinear": Provider("interpolation", _interpolation("bilinear")),
    "bilinear-aa": Provider("interpolation", _interpolation("bilinear", antialias=True)),
    "bicubic-aa": Provider("interpolation", _interpolation("bicubic", antialias=True)),
    "area": Provider("interpolation", _interpolation("area")),
    "copy": Provider("copy", _copy),
}
