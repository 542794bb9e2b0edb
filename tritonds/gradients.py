"""Backward passes that repeat an earlier one: one key finds their launches, past plans and PyTorch's dispatcher.

A call that repeats an earlier one (:mod:`tritonds.repeats`) is recorded with that one's options, to which belongs which
gradients are wanted. What its backward pass depends on beside them makes a key: shape, strides, dtype, device and alignment of
the tensors that were saved, and of the result's gradient. The first pass of a key takes the long way, and is observed. If it
was launches alone, on these tensors, the gradients and scratch, the next one does just that.
"""

import itertools
import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CAPACITY = 16
"""How many passes are kept of each call. They are all forgotten when there are more."""

address = Tensor.data_ptr
"""The address of a tensor's first element, as launches take it."""
LINE = 128
"""Bytes of a line of the caches, at multiples of which tensors start that share memory."""
Allocation = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype of a tensor."""


class _Pass(NamedTuple):
    """A backward pass that was launches alone."""

    launches: list[tuple[Any, list[Callable[[list[Any]], Any]]]]
    """Each launch, and what it is given in its places, as :class:`tritonds.repeats._Repeat` has them."""
    grads: list[tuple[int, Allocation]]
    """Gradients to inputs: which, and how they lie."""
    parameters: int
    """Elements of the parameters' gradients, which follow one another; 0 if none is wanted."""
    scratch: int
    """Bytes of what launches write for each other."""
    offsets: list[int]
    """Where in them each of it starts."""
    first: int
    """Which of the tensors is the first parameter."""

    def run(self, addresses: list[Any], table: Tensor | None, tensors: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
        """The gradient to each of ``tensors``, None where none is wanted."""
        bias, parameters = tensors[-1], list(tensors[self.first :])
        result: list[Any] = [None] * self.first
        for index, (shape, stride, dtype) in self.grads:
            grad = result[index] = torch.empty_strided(shape, stride, dtype=dtype, device=bias.device)
            addresses.append(address(grad))
        if self.parameters:
            flat = bias.new_empty(self.parameters)
            addresses.append(address(flat))
        if self.scratch:
            scratch = bias.new_empty(self.scratch, dtype=torch.uint8)
            start = address(scratch)
            addresses += [start + offset for offset in self.offsets]
        addresses += None if table is None else address(table), None
        for ready, picks in self.launches:
            ready.start([pick(addresses) for pick in picks])
        if not self.parameters:
            return result + [None] * len(parameters)
        with torch._C._AutoDispatchBelowADInplaceOrView():  # gradients have no graph that would have to know of views
            parts = torch._C._nn.unflatten_dense_tensors(flat, parameters)
        return result + [part if want else None for part, want in zip(parts, wanted[self.first :], strict=True)]


class Images(NamedTuple):
    """A list's images as the forward pass had them. If they still are the same, its table serves the backward pass."""

    references: list[Any]
    addresses: list[Any]
    traits: Any
    table: Tensor

    @classmethod
    def of(cls, images: Sequence[Tensor], traits: Any, table: Tensor) -> "Images":
        return cls([*map(weakref.ref, images)], [*map(address, images)], traits, table)

    def are(self, images: Sequence[Any]) -> bool:
        """Hooks on what autograd saves may give back others, and an image's ``data`` may have been replaced."""
        known = [reference() for reference in self.references]
        return all(map(operator.is_, known, images)) and [*map(address, images)] == self.addresses


class Passes:
    """The backward passes of a call's repetitions."""

    def __init__(self, letterboxed: bool | None) -> None:
        """``letterboxed`` is None for a batch; for several images it says whether each is letterboxed."""
        self.letterboxed = letterboxed
        self.known: dict[Any, _Pass] = {}

    def run(
        self, kernels: Any, long: Callable[..., list[Any]], grad_output: Tensor, tensors: Sequence[Any], wanted: Sequence[bool],
        images: int, first: int, before: Images | None,
    ) -> list[Any]:  # fmt: skip
        """``long(grad_output, tensors, wanted)``, or its launches: the gradient to each of ``tensors``.

        Args:
            images: how many of the tensors are images of a list.
            first: which of them is the first parameter.
            before: the list's images in the forward pass.
        """
        given, traits, rows, table = [grad_output, *tensors], None, None, None
        if self.letterboxed is not None:
            given = [grad_output, *tensors[images:]]
            if before is not None and before.are(tensors[:images]):
                traits, table = before.traits, before.table
            elif _alike(tensors[:images]):
                rows = kernels.batch.read(tensors[:images], tuple(grad_output.shape[2:]), self.letterboxed)
                traits = rows.traits
            else:
                return long(grad_output, tensors, wanted)
        found = traits_of(given, False)
        if found is None:
            return long(grad_output, tensors, wanted)
        parts, addresses = found
        if traits is not None:
            given.append(tensors[0])
            addresses.append(address(tensors[0]))
            parts += traits, tensors[0].dtype, tensors[0].device, addresses[-1] % 16
        key = tuple(parts)
        known = self.known.get(key)
        if known is None:
            return self._first(key, kernels, long, given, grad_output, tensors, wanted, first)
        if not all(ready.fits() for ready, _ in known.launches):
            return long(grad_output, tensors, wanted)
        if rows is not None:
            table = kernels.batch.table(rows, tensors[-1].device)
        return known.run(addresses, table, tensors, wanted)

    def _first(
        self, key: Any, kernels: Any, long: Callable[..., list[Any]], given: list[Any], grad_output: Tensor,
        tensors: Sequence[Any], wanted: Sequence[bool], first: int,
    ) -> list[Any]:  # fmt: skip
        """``long(grad_output, tensors, wanted)``. Keep how it can be repeated under ``key``, if it can."""
        with kernels.relaunch.observe() as observed:
            result = long(grad_output, tensors, wanted)
        known = _pass_of(observed, given, result, first)
        if known is not None:
            if len(self.known) >= CAPACITY:
                self.known.clear()
            self.known[key] = known
        return result


def _pass_of(observed: Any, given: list[Any], result: list[Any], first: int) -> _Pass | None:
    """How to repeat what was observed, or None if there was more to it."""
    if not observed.whole or not observed.launches:
        return None
    grads = [(index, grad) for index, grad in enumerate(result[:first]) if grad is not None]
    flat, table = observed.launches[-1][1].get("sums_ptr"), observed.launches[0][1].get("table_ptr")
    made = [grad for _, grad in grads] + ([] if flat is None else [flat])
    present = [x for x in [*given, *made, *observed.scratch] if x is not None]
    # Each once, since an equal pass may be given two tensors where this one is given one of them twice.
    if len(set(map(id, present))) != len(present):
        return None
    if any(x.numel() == 0 for x in [*made, *observed.scratch]):  # they have no address to be told apart by
        return None
    known = [*given, *made, *observed.scratch, table, None]
    places: dict[Any, int] = {id(x): index for index, x in enumerate(known)}
    scratch = {x.data_ptr(): len(given) + len(made) + index for index, x in enumerate(observed.scratch)}

    def place(x: Any) -> int:
        """Scratch is also given to launches as a view of it."""
        return places[id(x)] if id(x) in places else scratch[x.data_ptr()]

    try:
        launches = [(ready, [pick(value, place) for value in launched.values()]) for ready, launched in observed.launches]
    except KeyError:  # a tensor made on the way, such as a copy
        return None
    *offsets, total = itertools.accumulate([-(-x.nbytes // LINE) * LINE for x in observed.scratch], initial=0)
    allocations = [(index, (grad.shape, grad.stride(), grad.dtype)) for index, grad in grads]
    return _Pass(launches, allocations, 0 if flat is None else flat.numel(), total, offsets, first)


def pick(value: Any, place: Callable[[Any], int]) -> Callable[[list[Any]], Any]:
    """What picks ``value``, a tensor, None or a tuple of both, from a list where each has its ``place``."""
    if isinstance(value, tuple):
        return operator.itemgetter(*[place(x) for x in value])
    return operator.itemgetter(place(value))


def _alike(images: Sequence[Any]) -> bool:
    """Whether saved images are what they were: hooks on what autograd saves may give back others."""
    dtype, device = images[0].dtype, images[0].device
    for x in images:  # noqa: SIM110 (half the time of a generator)
        if type(x) is not Tensor or x.dtype is not dtype or x.device != device or x.is_neg():
            return False
    return True


def traits_of(tensors: Sequence[Any], grad: bool) -> tuple[list[Any], list[Any]] | None:
    """(What a key holds of the tensors, their addresses), or None if nothing is to be kept of them.

    ``grad``: whether derivatives are wanted, which inference tensors have none of.
    """
    key: list[Any] = []
    addresses: list[Any] = []
    for x in tensors:
        if x is None:
            key.append(None)
            addresses.append(None)
            continue
        kind = type(x)
        if (kind is not nn.Parameter and kind is not Tensor) or x.is_neg() or (grad and x.is_inference()):
            return None
        found = address(x)
        addresses.append(found)
        key += x.shape, x.stride(), x.dtype, x.device, x.requires_grad, found % 16
    if addresses and tensors[-1] is not None and tensors[-1].dtype is torch.float32:
        key.append(torch.backends.cuda.matmul.fp32_precision)
    return key, addresses
