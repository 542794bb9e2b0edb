"""glibc's allocator keeps freed memory, so that the next image uses what the last one freed.

By default glibc returns large blocks to the system at once. Each image's tensors then take new pages, which the system clears
one by one at first use.
"""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of ``mallopt``, from glibc's ``malloc.h``."""


def keep_freed_memory() -> None:
    """Set this for the process, before it starts threads. Only the command line does, since it is for a program to decide.

    Other systems and other C libraries are left as they are.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_ARENA_MAX, 1)  # a thread's own arena holds 64 MiB, and more is mapped anew each time
