"""What becomes of memory on the CPU that a step has freed."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
_KEPT = 2**31 - 1  # bytes
_ON_THE_HEAP = 2**25  # bytes of the largest block there; glibc allows no more


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 2 GiB, for the rest of this process.

    Every step asks for the same blocks, and by default most of them go back to the system after
    it: a step of the default run then meets tens of thousands of pages anew, which are zeroed one
    by one (benchmarks/cpu_training_step.md). Where there is no glibc it does nothing.
    """
    if sys.platform != "linux":
        return
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:  # musl has none
        tune(_TRIM_THRESHOLD, _KEPT)
        tune(_MMAP_THRESHOLD, _ON_THE_HEAP)
