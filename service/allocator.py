"""The memory allocator of glibc: make it return freed memory to the system."""

import ctypes
from typing import Final

# Bytes: more than any buffer of a compiled network, or the pixels of a photograph that is decoded for the finder. At
# 1 MB the finder took 1.4 times as long and decoding twice as long: each call touched fresh pages.
LARGE: Final = 17 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def return_large_blocks() -> None:
    """Return freed blocks of LARGE bytes or more to the system at once. Does nothing without glibc.

    By default glibc keeps blocks up to the size of the largest that was ever freed (at most 32 MB), and small objects
    come to lie between them. Then the server keeps 1.5 times its memory after a few photographs. See mallopt(3).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)  # higher, so that each request does not shrink and grow the heap


def return_free() -> None:
    """Return all free pages to the system, also those of threads that ended. Does nothing without glibc."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
