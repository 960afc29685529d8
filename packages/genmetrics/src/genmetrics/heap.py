"""What becomes of memory on the CPU that a network has freed."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h
_NEVER, _AT_ONCE = -1, 2**26  # bytes


def keep_freed_memory() -> None:
    """Let glibc keep all that is freed, for the rest of this process.

    Every batch asks for the same blocks. By default the large ones go back to the system after
    each, and are met anew page by page, every page zeroed: a third or more of Inception's time on
    a CPU (benchmarks/kept_memory.md). A process keeps the most that it has ever had. The commands
    call this; call it first in a script that runs networks on a CPU. Where there is no glibc it
    does nothing.

    Example:
        >>> keep_freed_memory()
    """
    if sys.platform != "linux":
        return
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:  # musl has none
        tune(_TRIM_THRESHOLD, _NEVER)
        tune(_TOP_PAD, _AT_ONCE)
        tune(_MMAP_MAX, 0)
