"""The processes that this one has started, and how to end them."""

import contextlib
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]

__all__ = ["descendants", "kill"]


def descendants() -> set[psutil.Process]:
    """Return the processes that this one has started, and those that these have."""
    return set(psutil.Process().children(recursive=True))


def kill(processes: Iterable[psutil.Process]) -> None:
    """End processes at once; those that have ended since are passed over."""
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
