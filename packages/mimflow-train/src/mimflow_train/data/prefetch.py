"""Makes each item while the one before is being used."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

__all__ = ["prefetched"]

Item = TypeVar("Item")


def prefetched(
    items: Generator[Item], in_thread: Callable[[], object] = lambda: None
) -> Iterator[Item]:
    """Yield the items of an iterator, which makes the next one in a thread meanwhile.

    An error of the iterator is raised at the item that it was to make. Closing this one waits for
    the thread.

    Args:
        items: A generator; it is closed with this one.
        in_thread: Called in the thread before anything is made there.

    Example:
        >>> list(prefetched(letter for letter in "abc"))
        ['a', 'b', 'c']
    """
    end = object()
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="ahead", initializer=in_thread) as thread:
            coming = thread.submit(next, items, end)
            while (item := coming.result()) is not end:
                coming = thread.submit(next, items, end)
                yield cast(Item, item)
    finally:
        items.close()
