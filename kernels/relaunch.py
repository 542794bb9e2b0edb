"""Repeated launches: they call Triton's launcher directly, without the steps that Triton takes before it.

At each launch Triton binds some forty arguments to names, and derives from them which compiled kernel fits. A plan that was
launched before needs the same kernel again, if the device is the same, and the tensors' dtypes and alignment are. AMD's GPUs
go Triton's way each time, because kernels depend on more there. So do launches under hooks, debugging or instrumentation.
"""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

ALIGNMENT = 16
"""Bytes. The compiler is told whether an address is a multiple of them."""


address = Tensor.data_ptr
"""The address of a tensor's first element, as launchers take it."""


class Ready(NamedTuple):
    """A compiled kernel that was launched, and the arguments that its launcher is given again."""

    function: Any
    """The kernel as it was written."""
    kernel: CompiledKernel
    device: int
    programs: int
    arguments: list[Any]
    """Integers and constants, with None in the places of tensors."""
    places: list[int]
    """Positions of the tensors, and of tuples of tensors, among the arguments."""

    def fits(self) -> bool:
        """Whether it may be started now: nobody watches, and the device is the current one."""
        return _is_plain(self.function) and driver.active.get_current_device() == self.device

    def start(self, addresses: Iterable[Any]) -> None:
        """Launch it on tensors that lie at ``addresses``, one for each place."""
        values, kernel = self.arguments.copy(), self.kernel
        for place, found in zip(self.places, addresses, strict=True):
            values[place] = found
        stream = driver.active.get_current_stream(self.device)
        kernel.run(self.programs, 1, 1, stream, kernel.function, kernel.packed_metadata, None, None, None, *values)


def run(kernel: Any, programs: int, arguments: dict[str, Any], tensors: dict[str, Any], ready: dict[Any, Ready]) -> None:
    """Launch ``kernel``. ``ready`` keeps what the next launch of the same plan uses again."""
    if torch.version.hip is not None or not _is_plain(kernel):
        kernel[(programs,)](**arguments, **tensors)
        spoil()
        return
    key, addresses = _key(tensors)
    known = ready.get(key)
    if known is not None:
        known.start(addresses)
    else:
        compiled = kernel[(programs,)](**arguments, **tensors)
        if not isinstance(compiled, CompiledKernel):
            spoil()
            return
        values = [None if name in tensors else arguments[name] for name in kernel.arg_names]
        places = [kernel.arg_names.index(name) for name in tensors]
        known = ready[key] = Ready(kernel, compiled, key[0], programs, values, places)
    observed = _observed.get()
    if observed is not None:
        observed.launches.append((known, tensors))


class Observed:
    """What a call did."""

    def __init__(self) -> None:
        self.launches: list[tuple[Ready, dict[str, Any]]] = []
        """Each with its tensors by argument."""
        self.scratch: list[Tensor] = []
        """What launches wrote for others to read."""
        self.whole = True
        """Whether there was nothing else, so that the call can be repeated by this."""


_observed: contextvars.ContextVar[Observed | None] = contextvars.ContextVar("observed", default=None)


@contextlib.contextmanager
def observe() -> Iterator[Observed]:
    """Collect what this thread launches and allocates."""
    observed = Observed()
    token = _observed.set(observed)
    try:
        yield observed
    finally:
        _observed.reset(token)


def spoil() -> None:
    """Say that something was done that repeated launches would leave out."""
    observed = _observed.get()
    if observed is not None:
        observed.whole = False


def scratch(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor for one launch to write and another one to read."""
    made = like.new_empty(shape, dtype=dtype)
    observed = _observed.get()
    if observed is not None:
        observed.scratch.append(made)
    return made


def _key(tensors: dict[str, Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """(What selects the compiled kernel, beside the plan: device, dtypes and alignment; the tensors' addresses)."""
    key: list[Any] = [driver.active.get_current_device()]
    addresses: list[Any] = []
    for value in tensors.values():
        if isinstance(value, tuple):
            addresses.append(tuple([_add(x, key) for x in value]))
        else:
            addresses.append(_add(value, key))
    return tuple(key), addresses


def _add(x: Tensor | None, key: list[Any]) -> int | None:
    """Append to ``key`` what matters of ``x``. Return its address."""
    if x is None:
        key.append(None)
        return None
    found = address(x)
    key += x.dtype, x.get_device()  # tensors on another device go to Triton, which refuses them
    if found % ALIGNMENT:
        key.append("unaligned")
    return found


def _is_plain(kernel: Any) -> bool:
    """Whether nobody watches or changes this launch."""
    runtime = knobs.runtime
    return not (
        kernel.pre_run_hooks
        or kernel.debug
        or runtime.debug
        or _is_set(runtime.launch_enter_hook)
        or _is_set(runtime.launch_exit_hook)
        or knobs.compilation.instrumentation_mode
        or getattr(runtime, "add_stages_inspection_hook", None) is not None
    )


def _is_set(hook: Any) -> bool:
    """Whether there is a hook. Triton's own chain of hooks may be empty; programs may put a function or None in its place."""
    return hook is not None and bool(getattr(hook, "calls", True))
