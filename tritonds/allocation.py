"""glibc's allocator, told to keep what it is given back: what one image freed, the next one uses.

By default glibc returns large blocks to the system at once. Each image's tensors then take new pages, which the system clears
one by one at first use.
"""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's ``malloc.h``."""


def keep_freed_memory() -> None:
    """For this process, before it starts threads; for the command line alone, since it is for a program to decide.

    Nothing on other systems, nor with another C library.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_ARENA_MAX, 1)  # a thread's own arena holds 64 MiB, and more is mapped anew each time
