"""Many images are decoded, computed and encoded at the same time. Results come in the order of the sources.

On a CPU each worker takes an image from its file to the bytes of its result. PyTorch's threads are shared out among the
workers, and no worker waits for another. On a GPU workers decode and encode; in between, batches of images go through the
network, in one launch each. Workers are threads, since Pillow and PyTorch let others run while they work. Memory depends on
the number of workers, not on that of images.
"""

import contextlib
import functools
import itertools
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import files, methods
from .batches import to_batch
from .files import Photograph, Source
from .module import DownsizeNet

Compute = Callable[[list[Tensor]], Tensor]
"""Takes images as ``files.decode`` gives them, all uint8 or all float32. Returns pictures (N, 3, h, w) between 0 and 1."""
Encode = Callable[[Source, np.ndarray, bytes | None], bytes]
"""Takes a source, the pixels (h, w, 3) of its result in uint8, and their colour profile. Returns the bytes of a file."""

FAILURES = (OSError, ValueError, RuntimeError, MemoryError)
"""What may be raised for one image. PyTorch raises RuntimeError where memory ends."""
BATCH, BATCH_PIXELS = 32, 2**24
"""The most images in one launch, and the most pixels of all of them together."""
BAND = 4
"""Target rows that are interpolated in one product."""
AHEAD = 2
"""Images that are decoded or encoded beforehand, per worker."""

T = TypeVar("T")
R = TypeVar("R")


class Outcome(NamedTuple):
    """What became of a source: the bytes of its result, or the error in their place."""

    source: Source
    result: bytes | Exception


class _Decoded(NamedTuple):
    source: Source
    photograph: Photograph | Exception


class _Computed(NamedTuple):
    source: Source
    profile: bytes | None
    pixels: np.ndarray | Exception


def computation(function: methods.Resize, size: tuple[int, int], letterbox: bool, device: torch.device) -> Compute:
    """The function that resizes images by a method. A network has to be on ``device`` already. Letterboxes are black.

    Any method but a network is taken to be linear and separable, as interpolations are.
    """
    if isinstance(function, DownsizeNet) and device.type == "cuda":
        return partial(_in_one_launch, function, size, letterbox, device)
    resize = partial(_rgb, function) if isinstance(function, DownsizeNet) else partial(_interpolate, function)
    return lambda images: to_batch([x[0].to(device) for x in images], size, letterbox, 0.0, resize)


def _rgb(net: DownsizeNet, image: Tensor, size: tuple[int, int]) -> Tensor:
    return net(image[:, :3], size)


def _in_one_launch(
    net: DownsizeNet, size: tuple[int, int], letterbox: bool, device: torch.device, images: list[Tensor]
) -> Tensor:
    batch = [x[0].to(device)[:3] for x in images]
    if not letterbox:
        return net(batch, size)
    result = net(batch, size, letterbox=True)
    return torch.where(result.mask[:, None], result.images, 0)  # black also where the network normalises


def _interpolate(function: methods.Resize, image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (1, 3, h, w) by a method that is no network: rows first, since few are left then, as products of matrices.

    PyTorch begins with columns, and takes twice the time for rows. The small result is divided, not the image.
    """
    channels, height, width = image.shape[1:]
    if height > 3 * width:  # the weights of all rows would be more numbers than the image has
        result = function(image[:, :3].float(), size)
        return result / 255 if image.dtype == torch.uint8 else result
    pixels = image.permute(0, 2, 3, 1).reshape(height, channels * width)
    rows = torch.empty(size[0], channels * width, device=image.device)
    for target, source, weights in _bands(function, height, size[0]):
        torch.mm(weights.to(image.device), pixels[source].float(), out=rows[target])
    result = function(rows.view(1, size[0], width, channels)[..., :3].permute(0, 3, 1, 2), size)
    return result / 255 if image.dtype == torch.uint8 else result


@functools.lru_cache(maxsize=64)
def _bands(function: methods.Resize, n_in: int, n_out: int) -> list[tuple[slice, slice, Tensor]]:
    """Along one axis: a few targets, the sources that they are means of, and these sources' weights."""
    weights = function(torch.eye(n_in)[None, None], (n_out, n_in))[0, 0]
    found = []
    for first in range(0, n_out, BAND):
        band = weights[first : first + BAND]
        used = band.any(dim=0).nonzero().flatten().tolist()
        source = slice(used[0], used[-1] + 1)
        found.append((slice(first, first + BAND), source, band[:, source].clone()))
    return found


def run(sources: Iterable[Source], compute: Compute, encode: Encode, jobs: int, *, batched: bool) -> Generator[Outcome]:
    """Every source's outcome, in order; ``batched`` if ``compute`` is to have many images at once, in the caller's thread.

    Close the iterator to stop: images that were begun are finished, and no thread is left.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())  # here and not in workers: filters are those of all threads
        warnings.simplefilter("ignore")  # decoders warn of large files, and of damage that they can cope with
        sources = iter(sources)
        first = list(itertools.islice(sources, jobs))
        cores = torch.get_num_threads()
        torch.set_num_threads(max(1, cores // max(1, len(first))))  # new threads, the workers, take this number over
        stack.callback(torch.set_num_threads, cores)
        pool = ThreadPoolExecutor(jobs)
        stack.callback(pool.shutdown, cancel_futures=True)
        sources = itertools.chain(first, sources)
        if batched:
            decoded = _ordered(pool, _decode, sources, AHEAD * jobs)
            computed = itertools.chain.from_iterable(_compute(compute, batch) for batch in _batches(decoded))
            yield from _ordered(pool, partial(_encode, encode), computed, AHEAD * jobs)
        else:
            yield from _ordered(pool, partial(_from_file_to_bytes, compute, encode), sources, AHEAD * jobs)


def _ordered(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """``map`` by the pool's workers, in order. They are at most ``ahead`` items ahead of whoever takes the results."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _from_file_to_bytes(compute: Compute, encode: Encode, source: Source) -> Outcome:
    (computed,) = _compute(compute, [_decode(source)])
    return _encode(encode, computed)


def _decode(source: Source) -> _Decoded:
    try:
        if source.problem:
            raise ValueError(source.problem)
        return _Decoded(source, files.decode(source.path))
    except FAILURES as error:
        return _Decoded(source, _without_frames(error))


def _batches(decoded: Iterable[_Decoded]) -> Iterator[list[_Decoded]]:
    """Neighbours of one dtype, as many as fit one launch. Sources that could not be read go with any."""
    batch: list[_Decoded] = []
    pixels, dtype = 0, None
    for item in decoded:
        if isinstance(item.photograph, Photograph):
            image = item.photograph.pixels
            if batch and (dtype not in (None, image.dtype) or pixels + image[0, 0].numel() > BATCH_PIXELS):
                yield batch
                batch, pixels = [], 0
            pixels, dtype = pixels + image[0, 0].numel(), image.dtype
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch, pixels, dtype = [], 0, None
    if batch:
        yield batch


def _compute(compute: Compute, batch: list[_Decoded]) -> list[_Computed]:
    """Compute a batch in one call. If that fails, compute each image alone, so that only those fail that have to."""
    images = [item.photograph.pixels for item in batch if isinstance(item.photograph, Photograph)]
    pixels: Iterator[np.ndarray | Exception] | None = None
    try:
        pixels = iter(_pixels(compute, images))
    except FAILURES as error:
        if len(images) == 1:
            pixels = iter([_without_frames(error)])
    if pixels is None:  # and the error is gone, with the memory that its frames held
        return [computed for item in batch for computed in _compute(compute, [item])]
    return [
        _Computed(source, photograph.profile, next(pixels))
        if isinstance(photograph, Photograph)
        else _Computed(source, None, photograph)
        for source, photograph in batch
    ]


@torch.inference_mode()
def _pixels(compute: Compute, images: list[Tensor]) -> np.ndarray:
    """The results as (N, h, w, 3), uint8."""
    if not images:
        return np.empty((0, 0, 0, 3), np.uint8)
    result = compute(images)
    if not torch.stack(result.aminmax()).isfinite().all():  # NaN is the least and the largest
        raise ValueError("the result is not finite: the network's weights are too large")
    pixels = result.clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _encode(encode: Encode, computed: _Computed) -> Outcome:
    source, profile, pixels = computed
    if isinstance(pixels, Exception):
        return Outcome(source, pixels)
    try:
        return Outcome(source, encode(source, pixels, profile))
    except FAILURES as error:
        return Outcome(source, _without_frames(error))


def _without_frames(error: Exception) -> Exception:
    """The error without its traceback, whose frames would keep the image in memory."""
    return error.with_traceback(None)
