"""What becomes of memory on the CPU that a network has freed."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h
_NEVER = -1
_WHOLE_HEAP = 2**26  # bytes of a heap of another thread than the first; with less it is given back


def keep_freed_memory() -> None:
    """Let glibc keep all that is freed, for the rest of this process.

    Every batch asks for the same blocks. By default the large ones go back to the system after
    each, and are met anew page by page, every page zeroed: a third or more of Inception's time on
    a CPU (benchmarks/kept_memory.md). A process keeps the most that it has ever had, and some more
    for gaps. In threads other than the first, blocks above 64 MiB still go back: glibc's heaps
    end there. The commands call this where a CPU computes; call it first in a script that runs
    networks on one. Where there is no glibc it does nothing.

    Example:
        >>> keep_freed_memory()
    """
    if sys.platform != "linux":
        return
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:  # musl has none
        tune(_TRIM_THRESHOLD, _NEVER)
        tune(_TOP_PAD, _WHOLE_HEAP)
        tune(_MMAP_MAX, 0)
