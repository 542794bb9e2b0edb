"""Triton's own driver for NVIDIA GPUs on top of the stub of libcuda: it specialises, compiles and launches as on a GPU.

In place of a cubin, which ptxas would make, the kernel's PTX goes to the stub, and from there to the emulator.
"""

import atexit
import ctypes
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

from .machine import Launch

HERE = pathlib.Path(__file__).parent
TESTED = ("3.6", "3.7", "3.8")
"""Versions of Triton whose driver the stub is known to serve."""

_ON_LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint), ctypes.c_uint,
    ctypes.POINTER(ctypes.c_void_p),
)  # fmt: skip


class UnavailableError(Exception):
    """Why the emulator cannot run on this machine, in one line that says what to do."""


def install(capability, allocations_of=None):
    """Make Triton's active driver one whose launches go to the emulator, for GPUs of compute capability 80 or 90.

    ``allocations_of(names, arguments)`` gives the memory that a launch may touch, from the kernel's arguments and their names.
    Without it launches do nothing, as far as Triton's own launcher goes: what remains is the host's part.
    Call this before Triton makes a driver of its own.
    """
    import triton

    version = ".".join(triton.__version__.split(".")[:2])
    if version not in TESTED:
        known = ", ".join(TESTED)
        raise UnavailableError(f"the stub of libcuda is not known to serve Triton {triton.__version__}: install one of {known}")
    from triton.backends.nvidia import compiler, driver

    folder = pathlib.Path(tempfile.mkdtemp(prefix="libcuda-stub-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _build(pathlib.Path(driver.__file__).parent / "include", folder)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    compiler.CUDABackend.make_cubin = lambda self, source, *_: source.encode() + b"\0"
    calls = _Calls()
    library = ctypes.CDLL(str(folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    library.emulator_set(calls.function if allocations_of else library.emulator_ignore, capability)
    triton.runtime.driver.set_active(_driver(driver, capability, calls, allocations_of))
    return calls


def _build(include, folder):
    """Compile the stub into ``folder``."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise UnavailableError("the stub of libcuda needs a C compiler: install gcc, or name one in CC")
    command = [compiler, "-shared", "-fPIC", "-I", include, "-o", folder / "libcuda.so.1", HERE / "libcuda.c"]
    result = subprocess.run([*command, "-Wl,-soname,libcuda.so.1"], capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UnavailableError(f"{compiler} cannot build the stub of libcuda: {reason}")


class _Calls:
    """What the stub calls, and what came of it: a C function cannot raise."""

    def __init__(self):
        self.one_at_a_time = threading.Lock()
        self.allocations = []
        self.function = _ON_LAUNCH(self._launch)
        self.error = None

    def _launch(self, text, grid, block, shared, pointers):
        try:
            text = text.decode()
            parameters = _copied(Launch.parameters_of(text), pointers)
            Launch(text, tuple(grid[:3]), tuple(block[:3]), shared, parameters, self.allocations).run()
        except BaseException as error:
            self.error = error
            return 1
        return 0


def _copied(parameters, pointers):
    """Parameters' bytes, laid out as in the kernel's parameter space."""
    size = max((parameter.offset + parameter.size for parameter in parameters), default=0)
    raw = bytearray(size)
    for index, (offset, count) in enumerate(parameters):
        raw[offset : offset + count] = ctypes.string_at(pointers[index], count)
    return bytes(raw)


def _driver(module, capability, calls, allocations_of):
    class Launcher(module.CudaLauncher):
        """Triton's launcher, which raises what the emulator found instead of an error number."""

        def __init__(self, source, metadata):
            super().__init__(source, metadata)
            self.names = source.fn.arg_names

        def __call__(self, *args):
            with calls.one_at_a_time:
                calls.error = None
                calls.allocations = allocations_of(self.names, args[-len(self.names) :])
                try:
                    super().__call__(*args)
                except RuntimeError:
                    if calls.error is None:
                        raise
                if calls.error is not None:
                    raise calls.error

    class Driver(module.CudaDriver):
        def __init__(self):
            self.utils = module.CudaUtils()
            self.launcher_cls = Launcher if allocations_of else module.CudaLauncher
            self.get_current_device = lambda: 0
            self.set_current_device = lambda device: None
            self.get_current_stream = lambda device: 0
            self.get_device_capability = lambda device: divmod(capability, 10)

    return Driver()
