"""Compile ahead of training what any sizes of given ranges will need.

The layer itself runs, forward and backward, on tensors of PyTorch's meta device, where launches are recorded and none runs. So
the launchers alone say which kernels there are, and this module compiles those that they ask for.
"""

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import checks, functional, geometry, ops
from .coefficient_weights import CoefficientWeights
from .dtypes import autocasts
from .module import DownsizeNet

Lengths: TypeAlias = int | tuple[int, int] | range
"""The lengths of one axis, in pixels: a number; all from the first to the last, both included; or those of a range."""
Size: TypeAlias = tuple[int, int]
Ranges: TypeAlias = tuple[range, range]
Call: TypeAlias = Callable[[Size, Size, Size], tuple[Tensor, list[Tensor]]]
"""From the sizes of image, texture and result: the result, and the tensors behind it that may want a gradient."""


class Warmup(NamedTuple):
    """What :func:`warmup` did."""

    kernels: int
    """Kernels that this process did not have yet: compiled, or read from Triton's cache on disk."""
    seconds: float


def warmup(
    net: DownsizeNet | CoefficientWeights,
    image_size: tuple[Lengths, Lengths],
    size: tuple[Lengths, Lengths] | None = None,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    as_list: bool = False,
    letterbox: bool = False,
    fill: float = 0.0,
    backward: bool = True,
    image_gradient: bool = False,
    prior: str | None = None,
    in_channels: int | None = None,
    texture_size: tuple[Lengths, Lengths] | None = None,
    backend: str = "auto",
    device: torch.device | str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Warmup:
    """Compile, several at once, every kernel that training or serving needs for sizes of given ranges.

    Triton compiles a kernel when it is first needed, which holds up that call for a second or more; with random sizes the last
    may come after hundreds of steps. After this, no call compiles anything whose image and result are within the ranges, and
    all else as said here; batches may be of any size. Triton keeps kernels on disk, so that the next process only reads them.

    Args:
        net: the layer; or the weights that :func:`tritonds.downsize` will be given, with an image and its texture features.
            Parameters that want gradients now are those that will.
        image_size: (H, W) of the images, in pixels: for each axis a number, a pair (least, most), or a range.
        size: (h, w) of the results, likewise; the layer's own if None.
        dtype: of the layer's images, uint8 or its parameters' dtype, which is meant by None.
        channels_last: whether the layer's images are, or the texture features given to the operator.
        as_list: whether the layer is given lists of images (C, H, W) instead of batches.
        letterbox: as in :meth:`DownsizeNet.forward`, likewise fill.
        fill: of the result around letterboxed images.
        backward: whether gradients are wanted, of parameters and of given texture features.
        image_gradient: whether images want one, too.
        prior: as in :func:`tritonds.downsize`; for weights alone, as the next three: a layer has its own.
        in_channels: C of the images; 3 if None.
        texture_size: of the texture features, in pixels, as image_size, which is meant by None.
        backend: "auto", "triton" or "torch".
        device: where the layer will run, if not where its parameters are.
        workers: threads that compile, each mostly outside of Python; if None, a few more than there are processors.
        progress: show a bar on stderr, where that is a terminal and rich is installed.

    Returns:
        The number of kernels that this process did not have yet, and seconds. No kernels where none are compiled: with the
        PyTorch backend, which "auto" is on a CPU, and in Triton's interpreter.

    Raises:
        TypeError, ValueError: an argument of another type, a length below 1, an argument that is not for a layer or not for
            weights, or what the layer raises for such images.
        RuntimeError: backend="triton" where it cannot run.

    Under autocast it compiles for autocast's dtype: call it under the same. TF32 likewise is what PyTorch's precision setting
    says now. Images, and gradients of results, may be views of anything. Texture features that start elsewhere than at a
    multiple of 16 bytes, or whose pixels do not lie side by side, need other kernels: views of larger tensors may be such, new
    tensors and their batches are not. So do weights that start elsewhere, which are views of larger tensors too.

    Source: ours.

    >>> net = DownsizeNet((224, 224), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    >>> warmup(net, image_size=((256, 2048), (256, 2048)), dtype=torch.uint8).kernels  # on a CPU
    0
    """
    start = time.perf_counter()
    parameter = _parameter(net)
    device = parameter.device if device is None else torch.device(device)
    inputs = _ranges("image_size", image_size)
    checks.check_options(None, 1, prior, backend)
    letterbox, as_list = checks.check_bool("letterbox", letterbox), checks.check_bool("as_list", as_list)
    channels_last, backward = checks.check_bool("channels_last", channels_last), checks.check_bool("backward", backward)
    image_gradient = checks.check_bool("image_gradient", image_gradient)
    if isinstance(net, DownsizeNet):
        _refuse(
            "a layer has its own", prior=prior, in_channels=in_channels, texture_size=texture_size, backend=backend != "auto"
        )
        size, backend = net.size if size is None else size, net.backend
    else:
        _refuse("only a layer has a choice", dtype=dtype, as_list=as_list, letterbox=letterbox)
    outputs = _ranges("size", size)
    textures = None if texture_size is None else _ranges("texture_size", texture_size)
    if not _compiles(backend, device):
        return Warmup(0, time.perf_counter() - start)
    work = _working_dtype(parameter.dtype, device)
    if isinstance(net, DownsizeNet):
        if dtype is None or (dtype.is_floating_point and autocasts(device.type)):
            dtype = work
        options = {"letterbox": letterbox, "fill": fill}
        launches = plan_layer(net, work, inputs, outputs, dtype, channels_last, as_list, options, backward, image_gradient)
    else:
        launches = plan_operator(
            net, work, inputs, outputs, textures, channels_last, in_channels or 3, prior, backward, image_gradient
        )
    return Warmup(compile_launches(launches, device, workers, progress), time.perf_counter() - start)


def _refuse(why: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value:
            raise ValueError(f"{name}: expected nothing: {why}")


def plan_layer(
    net: DownsizeNet, work: torch.dtype, inputs: Ranges, outputs: Ranges, dtype: torch.dtype, channels_last: bool,
    as_list: bool, options: dict[str, Any], backward: bool, image_gradient: bool,
) -> list[Any]:  # fmt: skip
    """One launch for each kernel that the layer, its parameters of dtype ``work``, needs for images of ``dtype``."""
    net = _layer_on_meta(net, work)
    parameters = list(net.parameters())
    taps = None if net.texture_channels else net.taps

    def batch(image_size: Size, _: Size, size: Size) -> tuple[Tensor, list[Tensor]]:
        image = _empty((2, net.in_channels, *image_size), dtype, channels_last, image_gradient)
        return net(image, size), [image, *parameters]

    def images(image_size: Size, _: Size, size: Size) -> tuple[Tensor, list[Tensor]]:
        image = _empty((1, net.in_channels, *image_size), dtype, channels_last, image_gradient)
        result = net([image[0]], size, **options)
        return result.images if options["letterbox"] else result, [image, *parameters]

    if not (as_list or options["letterbox"]):
        return plan(batch, inputs, outputs, None, backward, taps)
    launches = plan(images, inputs, outputs, None, backward, taps)
    if any(launch.arguments.get("table_ptr", True) is None for launch in launches):
        # Images are resized one by one, letterboxed ones to what they keep of the result: anything up to all of it.
        parts = [range(1, max(lengths) + 1) for lengths in outputs] if options["letterbox"] else outputs
        launches += plan(batch, inputs, (parts[0], parts[1]), None, backward, taps)
    return _distinct(launches)


def plan_operator(
    weights: CoefficientWeights, work: torch.dtype, inputs: Ranges, outputs: Ranges, textures: Ranges | None,
    channels_last: bool, in_channels: int, prior: str | None, backward: bool, image_gradient: bool,
) -> list[Any]:  # fmt: skip
    """One launch for each kernel that :func:`tritonds.downsize` needs for given texture, all of dtype ``work``."""
    weights = CoefficientWeights(*(_all_on_meta(part, work) for part in weights))
    parameters = [t for part in weights if part is not None for t in (part if isinstance(part, tuple) else [part])]
    taps = math.isqrt(weights.out_bias.numel())
    first = weights.hidden_weights[0] if weights.hidden_weights else weights.out_weight
    texture_channels = first.shape[1] - (0 if weights.distance_bias is None else weights.distance_bias.numel())

    def given(image_size: Size, texture_size: Size, size: Size) -> tuple[Tensor, list[Tensor]]:
        image = _empty((2, in_channels, *image_size), work, channels_last, image_gradient)
        shape = (2, texture_channels, *texture_size)
        texture = _empty(shape, work, channels_last, True) if texture_channels else None
        result = functional.downsize(image, texture, weights, size, taps=taps, prior=prior, backend="triton")
        return result, [image, *parameters, *([] if texture is None else [texture])]

    if not texture_channels:
        return plan(given, inputs, outputs, None, backward, taps)
    return plan(given, inputs, outputs, textures, backward, None)


def plan(call: Call, inputs: Ranges, outputs: Ranges, textures: Ranges | None, backward: bool, taps: int | None) -> list[Any]:
    """One launch for each kernel that ``call`` needs at any sizes of the ranges, texture being of the image's size if None.

    ``taps`` is None if there is texture.
    """
    sizes: Iterable[tuple[Size, Size, Size]]
    if textures is None:
        sizes = [(size_in, size_in, size) for size_in, size in _representatives(inputs, outputs, taps)]
    else:  # beside a given texture, only the image's extremes matter
        corners = [(min(inputs[0]), min(inputs[1])), (max(inputs[0]), max(inputs[1]))]
        sizes = [(image, *pair) for image in corners for pair in _representatives(textures, outputs)]
    return _distinct(itertools.chain.from_iterable(launches_of(call, *three, backward) for three in sizes))


def launches_of(call: Call, image_size: Size, texture_size: Size, size: Size, backward: bool) -> list[Any]:
    """What ``call`` launches, and its backward pass if that is wanted."""
    kernels = ops.import_kernels()
    with torch.inference_mode(False), torch.enable_grad(), kernels.launch.record() as launches, _Launching():
        result, tensors = call(image_size, texture_size, size)
        wanted = [t for t in tensors if t.requires_grad]
        if backward and wanted:
            torch.autograd.grad(result, wanted, torch.empty_like(result), allow_unused=True)
    return list(launches)


class _Launching(TorchDispatchMode):
    """Has operators launch their kernels for tensors of the meta device, which otherwise have shapes and strides alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = ops.IMPLEMENTATIONS.get(func, func)(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and any(_is_channels_last(x) for x in args[:2]):
            # Convolutions on GPUs keep this format; on the meta device their result is always contiguous.
            return result.contiguous(memory_format=torch.channels_last)
        return result


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _distinct(launches: Iterable[Any]) -> list[Any]:
    return list({launch.key(): launch for launch in launches}.values())


def _representatives(inputs: Ranges, outputs: Ranges, taps: int | None = None) -> list[tuple[Size, Size]]:
    """A few sizes of images and results. No other sizes in the ranges need another kernel.

    Sizes are grouped by what launchers decide from the ratio of two sizes, and without texture by whether there is a table of
    coefficients. Each group gives its smallest and largest sizes in several respects, because large sizes and axes of one pixel
    need kernels of their own.
    """
    kernels = ops.import_kernels()
    alike: dict[Any, list[tuple[int, int, int, int]]] = {}
    axes = [_pairs(*axis, taps) for axis in zip(inputs, outputs, strict=True)]
    for (in_h, out_h), (in_w, out_w) in itertools.product(*axes):
        size_in, size = (in_h, in_w), (out_h, out_w)
        tabulated = taps is not None and kernels.table.phases_of(size_in, size, taps) is not None
        decisions = tabulated, *kernels.area_pool.size_decisions(size_in, size)
        alike.setdefault(decisions, []).append((in_h, in_w, out_h, out_w))
    respects: list[Callable[[tuple[int, int, int, int]], int]] = [
        *(lambda sizes, axis=axis: sizes[axis] for axis in range(4)),
        lambda sizes: sizes[0] * sizes[1],
        lambda sizes: sizes[2] * sizes[3],
        max,
    ]
    chosen = [most(sizes, key=respect) for sizes in alike.values() for respect in respects for most in (min, max)]
    return [((in_h, in_w), (out_h, out_w)) for in_h, in_w, out_h, out_w in dict.fromkeys(chosen)]


def _pairs(inputs: range, outputs: range, taps: int | None) -> list[tuple[int, int]]:
    """A few (n_in, n_out) along one axis: of every class the smallest and the largest.

    If ``taps`` are given, also those whose target pixels repeat most and least often.
    """
    size_class = ops.import_kernels().area_pool.size_class
    lengths = torch.tensor(inputs, device="cpu")
    alike: dict[int, list[tuple[int, int]]] = {}
    for n_out in outputs:
        classes = size_class(lengths, n_out) * 1000 + size_class(n_out, lengths)
        for value in classes.unique().tolist():
            n_in = lengths[classes == value]
            alike.setdefault(value, []).extend([(int(n_in.min()), n_out), (int(n_in.max()), n_out)])
    respects: list[Callable[[tuple[int, int]], int]] = [lambda pair: pair[0], lambda pair: pair[1], max]
    chosen = [most(pairs, key=of) for pairs in alike.values() for of in respects for most in (min, max)]
    if taps is not None:

        def share(pair: tuple[int, int]) -> float:
            """Of target pixels, how many are like no earlier one."""
            found = geometry.phases(*pair, taps)
            return found.count(pair[1]) / pair[1] if found.inside >= found.period else 1

        chosen += [most(itertools.product(inputs, outputs), key=share) for most in (min, max)]
    return list(dict.fromkeys(chosen))


def compile_launches(launches: Sequence[Any], device: torch.device, workers: int | None, progress: bool) -> int:
    """Compile what ``launches`` need and load it onto ``device``. Return how many kernels were not there."""
    import triton

    def load(kernel: Any) -> None:
        with _on(device):
            _ = kernel.run  # the first access loads it

    with _on(device), ThreadPoolExecutor(workers) as pool:
        with triton.AsyncCompileMode(pool) as mode:
            kernels = [launch.kernel.warmup(grid=(1,), **launch.arguments) for launch in launches]
            count = len(mode.raw_futures)
            with _bar(count, progress) as advance:
                for _ in as_completed(mode.raw_futures):
                    advance()
        list(pool.map(load, [kernel.result() if hasattr(kernel, "result") else kernel for kernel in kernels]))
    return count


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make ``device`` the current one, which Triton compiles for."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[], None]]:
    """Show a bar of ``total`` steps on a terminal's stderr, if rich is installed. Yields a function to call at each step."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda: None
        return
    console = Console(stderr=True)
    with Progress(console=console, disable=not (wanted and console.is_terminal)) as bar:
        task = bar.add_task("compiling", total=total)
        yield lambda: bar.advance(task)


def _parameter(net: DownsizeNet | CoefficientWeights) -> Tensor:
    if isinstance(net, DownsizeNet):
        return net.out.weight
    if isinstance(net, CoefficientWeights):
        return net.out_weight
    raise TypeError(f"net: expected a DownsizeNet or CoefficientWeights, got {type(net).__name__}")


def _ranges(name: str, size: tuple[Lengths, Lengths] | None) -> Ranges:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"{name}: expected (height, width), each a number, a pair (least, most) or a range, got {size!r}")
    height, width = (_range(name, lengths) for lengths in size)
    return height, width


def _range(name: str, lengths: Lengths) -> range:
    if isinstance(lengths, int) and not isinstance(lengths, bool):
        lengths = range(lengths, lengths + 1)
    elif isinstance(lengths, (tuple, list)) and len(lengths) == 2 and all(type(n) is int for n in lengths):
        lengths = range(lengths[0], lengths[1] + 1)
    if not isinstance(lengths, range):
        raise TypeError(f"{name}: expected a number, a pair (least, most) or a range for each axis, got {lengths!r}")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"{name}: expected at least one length for each axis, and none below 1, got {lengths!r}")
    return lengths


def _compiles(backend: str, device: torch.device) -> bool:
    """Whether ``backend`` means kernels, on ``device``, that are compiled."""
    if backend == "torch" or (backend == "auto" and (device.type != "cuda" or ops.why_no_triton("cuda") is not None)):
        return False
    reason = ops.why_no_triton(device.type)
    if reason is not None:
        raise RuntimeError(f'backend="triton" cannot run here: {reason}')
    return device.type == "cuda" and not ops.import_kernels().launch.INTERPRETED


def _working_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which kernels see parameters of ``dtype``: autocast's if it is on."""
    return torch.get_autocast_dtype(device.type) if autocasts(device.type) and dtype != torch.float64 else dtype


def _empty(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, gradient: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)
    return x.requires_grad_(gradient and dtype.is_floating_point)


def _on_meta(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` without memory: its shape, strides and requires_grad."""
    return x.detach().to("meta", dtype if x.is_floating_point() else x.dtype).requires_grad_(x.requires_grad)


def _all_on_meta(part: Any, dtype: torch.dtype) -> Any:
    """As :func:`_on_meta`, for a tensor, several in a tuple, or None."""
    if isinstance(part, (tuple, list)):
        return tuple(_on_meta(t, dtype) for t in part)
    return None if part is None else _on_meta(part, dtype)


def _layer_on_meta(net: DownsizeNet, dtype: torch.dtype) -> DownsizeNet:
    """A copy without memory, whose parameters are of ``dtype``."""
    copies: dict[int, Any] = {id(t): nn.Parameter(_on_meta(t, dtype), t.requires_grad) for t in net.parameters()}
    copies |= {id(t): _on_meta(t, dtype) for t in net.buffers()}
    net = copy.deepcopy(net, copies)
    net.backend = "triton"
    return net
