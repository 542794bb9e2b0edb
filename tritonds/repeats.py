"""Calls that repeat an earlier one: one key finds their launch, past checks, plans and PyTorch's dispatcher.

The key holds all that checks and plans depend on: of each tensor its shape, strides, dtype, device, alignment and whether it
wants a gradient; the options and their types; PyTorch's modes. The first call of a key takes the long way, and is observed. If
it was launches, on nothing but the tensors that were given, the result, and what one of them wrote for the next, the next call
starts these at once. Where somebody watches, or anything is unusual, every call takes the long way.
"""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import ops
from .coefficient_weights import given
from .gradients import Allocation, Images, Passes, address, pick, traits_of

CAPACITY = 1024
"""How many calls are kept. They are all forgotten when there are more."""
PLAIN = frozenset([int, float, bool, str, type(None), torch.dtype, types.FunctionType])
"""Types of options that are kept as they are; others may change, or hold tensors."""

_known: dict[Any, "_Repeat"] = {}


class _Repeat(NamedTuple):
    """A call that was launches alone, mostly one."""

    launches: list[tuple[Any, list[Callable[[list[Any]], Any]]]]
    """Each launch (:class:`tritonds.kernels.relaunch.Ready`), and what it is given in its places, of the addresses of tensors,
    result, scratch and table, and None."""
    result: Allocation
    scratch: list[Allocation]
    """What launches write for each other."""
    device: torch.device
    recorded: ops.Recorded | None
    """For the backward pass, if a gradient is wanted."""

    def launch(self, addresses: list[Any], rows: Any) -> tuple[Tensor, Tensor | None]:
        """The result, and the table if images are a list, whose ``rows`` these are."""
        made = []
        for shape, stride, dtype in (self.result, *self.scratch):
            made.append(torch.empty_strided(shape, stride, dtype=dtype, device=self.device))
        table = None if rows is None else ops.import_kernels().batch.table(rows, self.device)
        addresses += *map(address, made), None if table is None else address(table), None
        for ready, picks in self.launches:
            ready.start([pick(addresses) for pick in picks])
        return made[0], table

    def record(self, addresses: list[Any], rows: Any, images: Sequence[Tensor]) -> tuple[Tensor, Images | None]:
        """The result, and the list's images for the backward pass."""
        result, table = self.launch(addresses, rows)
        return result, None if table is None else Images.of(images, rows.traits, table)


def may_be(backend: Any, image: Any) -> bool:
    """Whether a call for ``image``, or for several, may be one of Triton's."""
    if backend == "auto":
        first = image[0] if isinstance(image, (list, tuple)) and image else image
        return isinstance(first, Tensor) and first.is_cuda
    return backend == "triton"


def run(
    compute: Callable[..., Tensor], arguments: Sequence[Any], images: Sequence[Any], tensors: Sequence[Any], weights: Any,
    options: Sequence[Any], place: tuple[Any, Any] | None = None,
) -> Tensor:  # fmt: skip
    """``compute(*arguments)``, or its launch. Nothing of this was checked.

    Args:
        images: the first tensors of the operator's call: one batch, or several images.
        tensors: those between images and ``weights``.
        options: all else; an option may be a sequence.
        place: for images that are no batch, what each is resized to, and whether it is letterboxed.
    """
    if torch.compiler.is_compiling() or ops.is_watched() or forward_ad._current_level >= 0:
        return compute(*arguments)
    flat = given(weights)
    if flat is None:
        return compute(*arguments)
    plain = [compute, len(tensors), weights.distance_weight is None]
    for option in options:
        plain += (*option, None) if type(option) is tuple or type(option) is list else (option,)
    tensors = [*tensors, *flat]
    rows = None if place is None else _rows(images, *place)
    if place is None:
        found = _key([*images, *tensors], plain)
    else:
        found = None if rows is None else _key(tensors, [*plain, len(images)])
    if found is None:
        return compute(*arguments)
    key, addresses = found
    if rows is not None:
        first = address(images[0])
        key += rows.traits, images[0].dtype, images[0].device, first % 16
        addresses.insert(0, first)
    repeat = _known.get(key)
    if repeat is None:
        return _first(key, [images[0], *tensors], compute, arguments, None if place is None else place[1])
    if not all(ready.fits() for ready, _ in repeat.launches):
        return compute(*arguments)
    if repeat.recorded is None:
        return repeat.launch(addresses, rows)[0]
    launch = functools.partial(repeat.record, addresses, rows, images)
    result: Tensor = ops.Differentiable.apply(repeat.recorded, launch, *images, *tensors)
    return result


def _rows(images: Sequence[Any], size: Any, letterbox: Any) -> Any:
    """The table of ``images``, or None if these are unusual or not alike, or want a gradient."""
    if type(images) not in (list, tuple) or not images or type(images[0]) is not Tensor:
        return None
    if type(size) is not tuple or set(map(type, size)) != {int} or type(letterbox) is not bool:
        return None
    dtype, device, grad = images[0].dtype, images[0].device, torch.is_grad_enabled()
    if ops.why_no_triton(device.type) is not None:
        return None
    try:
        for x in images:
            if type(x) is not Tensor or x.dtype is not dtype or x.device != device or x.requires_grad or x.is_neg():
                return None
            if grad and x.is_inference():
                return None
        return ops.import_kernels().batch.read(images, size, letterbox)
    except (RuntimeError, ValueError, ZeroDivisionError):  # of an image or a size that checks will refuse
        return None


def _key(tensors: Sequence[Any], options: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]] | None:
    """(The key of a call, the tensors' addresses), or None if nothing is to be kept of it."""
    kinds = tuple(map(type, options))
    if not PLAIN.issuperset(kinds):
        return None
    grad, bias = torch.is_grad_enabled(), tensors[-1]
    if bias is None:
        return None
    try:
        found = traits_of(tensors, grad)
    except RuntimeError:  # nested tensors have no shape, sparse ones no address
        return None
    if found is None:
        return None
    key, addresses = found
    device_type = "cuda" if bias.is_cuda else "cpu"
    autocast = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    return (*options, kinds, grad, autocast, *key), addresses


def _first(
    key: Any, tensors: Sequence[Any], compute: Callable[..., Tensor], arguments: Sequence[Any], letterboxed: bool | None
) -> Tensor:
    """``compute(*arguments)``. Keep how it can be repeated under ``key``, if it can."""
    if ops.why_no_triton(tensors[-1].device.type) is not None:
        return compute(*arguments)
    with ops.import_kernels().launch.relaunch.observe() as observed:
        result = compute(*arguments)
    given, launches = [x for x in tensors if x is not None], observed.launches
    # Each once, since an equal call may be given two tensors where this one is given one of them twice.
    if observed.whole and launches and len(set(map(id, given))) == len(given):
        known = [*tensors, result, *observed.scratch, launches[0][1].get("table_ptr"), None]
        places = {id(x): index for index, x in enumerate(known)}
        try:
            repeated = [(ready, [pick(x, lambda x: places[id(x)]) for x in launched.values()]) for ready, launched in launches]
        except KeyError:  # a tensor made on the way, such as a copy
            return result
        recorded = getattr(result.grad_fn, "recorded", None)
        if result.requires_grad and recorded is None:
            return result
        if recorded is not None:
            recorded = recorded._replace(passes=Passes(letterboxed))
        if len(_known) >= CAPACITY:
            _known.clear()
        made, *scratch = [(x.shape, x.stride(), x.dtype) for x in (result, *observed.scratch)]
        _known[key] = _Repeat(repeated, made, scratch, result.device, recorded)
    return result
