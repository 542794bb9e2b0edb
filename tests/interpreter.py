"""Triton's interpreter, spared what comes to nothing and what it does anew for every operation, which is most of its time.

What it computes stays the same, but for products that are added in float32: their bits do not depend on the CPU.
"""

import dataclasses
import functools
import inspect

import numpy as np
from triton.runtime import interpreter

tl = interpreter.tl


def quicken():
    """To be called once, before the first kernel."""
    _check_no_overflow()
    _patch_once()
    _keep_types()
    _add_products_in_float64()


def _add_products_in_float64():
    """The bits of NumPy's products in float32 depend on a row's place, on CPUs without AVX-512; in a kernel they do not."""
    builder = type(interpreter.interpreter_builder)
    original = builder.create_dot

    def create_dot(self, a, b, d, *rest):
        if d.data.dtype != np.float32 or {a.data.dtype.type, b.data.dtype.type} - {np.float16, np.float32}:
            return original(self, a, b, d, *rest)
        product = np.matmul(a.data, b.data, dtype=np.float64)
        return interpreter.TensorHandle((product + d.data).astype(np.float32), d.dtype.scalar)

    builder.create_dot = create_dot


def _check_no_overflow():
    """It repeats whatever it computes in 32 bits in 64, and compares, for an assertion that it makes with ``debug`` alone."""
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _patch_once():
    """At every call inside a kernel, it looks through the whole of triton.language for what is not yet its own."""

    @functools.cache
    def builtins(package):
        return [(name, member) for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]

    def patch_builtin(package, *rest):
        for name, member in builtins(package):
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, *rest)

    @functools.cache
    def languages(function):
        return {value.__name__ for value in function.__globals__.values() if inspect.ismodule(value) and value in (tl, tl.core)}

    original, patched = interpreter._patch_lang, set()

    def patch_lang(function):
        """The kernel's own patches, which come first, last until they are restored after it."""
        if patched and languages(function) <= patched:
            return None
        scope = original(function)
        if not patched:

            def restore():
                patched.clear()
                type(scope).restore(scope)

            scope.restore = restore
        patched.update(languages(function))
        return scope

    interpreter._patch_builtin, interpreter._patch_lang = patch_builtin, patch_lang


def _keep_types():
    """The types of tiles, of which there are few, and what a tensor has of its type."""
    numpy_dtype, dtypes = interpreter._get_np_dtype, {}

    def kept_numpy_dtype(dtype):
        name = dtype.scalar.name
        if name not in dtypes:
            dtypes[name] = numpy_dtype(dtype)
        return dtypes[name]

    make_type, types, shapes = tl.block_type.__init__, {}, {}

    def kept_type(self, element, shape):
        sizes = tuple(getattr(size, "value", size) for size in shape)
        if (element.name, sizes) not in types:
            make_type(self, element, shape)
            self.shape = shapes.setdefault(sizes, self.shape)
            types[element.name, sizes] = dict(vars(self))
        vars(self).update(types[element.name, sizes])

    make_tensor, tensors = tl.tensor.__init__, {}

    def kept_tensor(self, handle, type):
        if type.name not in tensors:
            make_tensor(self, handle, type)
            tensors[type.name] = {name: value for name, value in vars(self).items() if name not in ("handle", "type")}
        vars(self).update(tensors[type.name], handle=handle, type=type)

    broadcast = interpreter.TritonSemantic.broadcast_impl_value

    def broadcast_unless_alike(self, left, right):
        """Tiles of one shape share it."""
        if left.type.is_block() and right.type.is_block() and left.type.shape is right.type.shape:
            return left, right
        return broadcast(self, left, right)

    interpreter._get_np_dtype = kept_numpy_dtype
    interpreter.TritonSemantic.broadcast_impl_value = broadcast_unless_alike
    tl.block_type.__init__, tl.tensor.__init__ = kept_type, kept_tensor
