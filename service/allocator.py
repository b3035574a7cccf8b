"""What the C library does with memory that was freed."""

import ctypes
from typing import Final

LARGE: Final = 1 << 20  # bytes: more than any buffer of a compiled network, less than the pixels of a photograph
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def return_large_blocks() -> None:
    """Have a freed block of LARGE bytes or more go back to the system at once; of glibc, and nothing elsewhere.

    Left alone, glibc keeps blocks as large as the largest that was ever freed (up to 32 MB), and what is small and
    stays ends up between them: then a few photographs leave a server with half as much memory again. See mallopt(3).
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)  # else buffers at the heap's end would come and go with each request


def return_free() -> None:
    """Have all free pages go back to the system, of threads that ended too; of glibc, and nothing elsewhere."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
