"""Images decoded ahead of the network, by threads or by processes. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from genmetrics.images.contents import digest, is_plain
from genmetrics.images.sources import ImageSource, PictureSet


class Decoded(NamedTuple):
    """One image with what is noted of its content.

    Args:
        pixels: Bytes, channels last.
        digest: Of the pixels and their size.
        plain: Whether it has one colour throughout.
        noticed: What a picture was before it was made RGB, a row of ``NOTICED``; None for others.
    """

    pixels: np.ndarray
    digest: int
    plain: bool
    noticed: np.void | None


@dataclass(frozen=True, slots=True)
class Processes:
    """Decode in processes of their own, where threads wait for one another.

    They start fresh (spawned, not forked), so a script that uses them needs its
    ``if __name__ == "__main__"``. Arrays need no decoding and are read by threads all the same.

    Args:
        count: How many, at least 1.
    """

    count: int


def batches_ahead(
    source: ImageSource, ranges: Iterable[range], workers: int | Processes
) -> Iterator[tuple[range, list[Decoded]]]:
    """Yield ranges of images, the next one being decoded meanwhile.

    Args:
        source: The images.
        ranges: Which to read, in this order; no more than one is taken ahead.
        workers: Number of threads, or processes.

    Raises:
        BadInput: If an image cannot be decoded; the message names its file.
    """
    coming = iter(ranges)
    this = next(coming, None)
    if this is None:
        return
    pool, read = _pool(source, workers)
    with pool:
        ahead = pool.map(read, this)
        while this is not None:
            following = next(coming, None)
            images, ahead = list(ahead), pool.map(read, following or ())
            yield this, images
            this = following


def _pool(
    source: ImageSource, workers: int | Processes
) -> tuple[Executor, Callable[[int], Decoded]]:
    if isinstance(workers, int) or source.kind in ("npz", "memory"):
        count = workers if isinstance(workers, int) else workers.count
        return ThreadPoolExecutor(count), partial(_read, source)
    context = get_context("spawn")
    pool = ProcessPoolExecutor(workers.count, context, initializer=_keep, initargs=(source,))
    return pool, _read_kept


_kept: list[ImageSource] = []  # of this process, which reads one source only


def _keep(source: ImageSource) -> None:
    _kept.append(source)


def _read_kept(index: int) -> Decoded:
    return _read(_kept[0], index)


def _read(source: ImageSource, index: int) -> Decoded:
    """Decode and digest, so that digests too are made by the readers and not before the network."""
    pixels = source.read(index)
    noticed = source.noticed[index] if isinstance(source, PictureSet) else None
    return Decoded(pixels, digest(pixels), is_plain(pixels), noticed)
