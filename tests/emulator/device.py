"""CPU tensors that stand for CUDA's: the package's own kernels, compiled and emulated, behind its public functions."""

import os
import pathlib

import torch

from . import driver
from .memory import Allocation


def use(capability, cache):
    """Have tritonds run its compiled kernels on CPU tensors from here on, for a GPU of that compute capability.

    ``cache`` is a folder for what Triton compiles. It must be no other's: what is in it runs in the emulator alone.
    """
    folder = pathlib.Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "writable").touch()
    except OSError as error:
        raise driver.UnavailableError(f"the folder for compiled kernels cannot be written: {error}") from None
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    calls = driver.install(capability, allocations)

    from tritonds import gradients, ops, repeats
    from tritonds.kernels import batch, relaunch

    ops.why_no_triton = lambda device_type: None
    read, table = batch.read, batch.table

    def remember(images, *rest):
        rows = read(images, *rest)
        given[bytes(rows.data)] = images
        return rows

    def with_images(rows, *rest):
        result = table(rows, *rest)
        result.given = given.pop(bytes(rows.data))  # the kernel gets their addresses inside of the table
        return result

    given = {}
    batch.read, batch.table = remember, with_images
    relaunch.address = repeats.address = gradients.address = _Address
    return calls


class _Address(int):
    """A tensor's, that knows the tensor: launches are given addresses alone."""

    def __new__(cls, x):
        address = super().__new__(cls, x.data_ptr())
        address.tensor = x
        return address

    def __add__(self, offset):
        """The address of a part of the tensor, which may reach to its end."""
        return _Address(self.tensor[offset:])


def allocations(names, arguments):
    """The memory of all tensors among a launch's arguments: from the first to the last byte of each tensor's elements."""
    found = []
    for name, argument in zip(names, arguments, strict=True):
        argument = getattr(argument, "tensor", argument)
        if isinstance(argument, (tuple, list)):
            parts = getattr(argument, "_fields", range(len(argument)))
            found += allocations([f"{name}.{part}" for part in parts], argument)
        elif isinstance(argument, torch.Tensor):
            found += _extent(name, argument)
            for index, image in enumerate(getattr(argument, "given", ())):
                found += _extent(f"image {index} of {name}", image)
    return found


def _extent(name, x):
    if x.numel() == 0:
        return []
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return [Allocation(name, x.data_ptr(), x.data_ptr() + (last + 1) * x.itemsize)]
