"""Decodes batches ahead of training, in processes that import little."""

import multiprocessing
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mimflow_train.data.folder import Decoded, FolderImages, ImageReader, Unreadable
from mimflow_train.data.images import ImageSource
from mimflow_train.errors import DataError

__all__ = ["load"]

Anything = TypeVar("Anything")
_AHEAD = 2  # batches that each process keeps ready
_ANSWERED_BY_TRAINING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_PATIENCE_SECONDS = 20  # from SIGTERM to a process's end, for the training process to save


class _Batch(NamedTuple):
    """What a process hands over; a user's mistake travels as its sentence."""

    indices: list[int]
    pixels: UInt8[Tensor, "b 3 h w"]
    skipped: list[Unreadable]
    mistake: str


@dataclass(frozen=True)
class _Batches(Dataset[_Batch]):
    """Maps a list of image numbers to their batch."""

    images: ImageReader | ImageSource

    def __getitem__(self, indices: Sequence[int]) -> _Batch:
        try:
            decoded = [self._decode(index) for index in indices]
            pixels = _to_hand_over(torch.stack([each.pixels for each in decoded]))
        except DataError as error:
            return _Batch(list(indices), torch.empty(0, 3, 0, 0, dtype=torch.uint8), [], str(error))
        skipped = [bad for each in decoded for bad in each.skipped]
        return _Batch(list(indices), pixels, skipped, "")

    def _decode(self, index: int) -> Decoded:
        if isinstance(self.images, ImageReader):
            return self.images.decode(index)
        return Decoded(self.images[index], ())


def _to_hand_over(pixels: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Put pixels where the training process reads them; later, torch would drop what has no room.

    Raises:
        DataError: If there is no room.
    """
    if get_worker_info() is None:
        return pixels
    try:
        pixels.share_memory_()
    except RuntimeError as error:
        raise DataError(
            f"Expected room in /dev/shm for the images on their way; there is none ({error}). "
            "Lower data.loaders, or give it 1 GB a worker (docker run --shm-size)."
        ) from error
    return pixels


def load(
    images: ImageSource,
    index_lists: Iterable[Sequence[int]],
    *,
    loaders: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[Int64[Tensor, " b"], UInt8[Tensor, "b 3 h w"]]]:
    """Yield ``(indices, pixels)`` of each list of image numbers, in the order of the lists.

    The processes end with the iterator: close it, or drop the last reference to it.

    Args:
        images: The images; those in memory are taken from there, whatever ``loaders`` says.
        index_lists: Image numbers of each batch.
        loaders: Processes that decode; 0 decodes here.
        pin_memory: Put the pixels where CUDA copies them from without waiting.

    Raises:
        DataError: If too many images cannot be decoded, or a process dies.
    """
    on_disk = isinstance(images, FolderImages)
    with warnings.catch_warnings():
        # Of more processes than cores; they may wait for a disk.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            _Batches(images.reader if isinstance(images, FolderImages) else images),
            batch_size=None,
            sampler=index_lists,
            num_workers=loaders if on_disk else 0,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals,
            prefetch_factor=_AHEAD if on_disk and loaders else None,
            multiprocessing_context=_clean_processes() if on_disk and loaders else None,
        )
        batches = iter(loader)
    try:
        while (batch := _next(batches)) is not None:
            if batch.mistake:
                raise DataError(batch.mistake)
            if isinstance(images, FolderImages):
                for each in batch.skipped:
                    images.bad.add(each)
            yield torch.tensor(batch.indices), batch.pixels
    finally:
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            # Dropping the iterator would not do: the traceback of an error holds it too.
            batches._shutdown_workers()


def _next(batches: Iterator[_Batch]) -> _Batch | None:
    try:
        return next(batches, None)
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        # The last three: it died while it handed over what it had announced. Where batches are
        # pinned, they end the thread that does it.
        dead = ("DataLoader worker", "Pin memory thread")
        if isinstance(error, RuntimeError) and not str(error).startswith(dead):
            raise
        raise DataError(
            f"Expected the processes that decode images to live; one died ({str(error).strip()}). "
            "They lack memory, or room in /dev/shm: lower data.loaders or give them more."
        ) from error


def _clean_processes() -> BaseContext:
    """Return a way to start processes from one that has imported torch and done nothing else.

    A fork of this process may hang if it has CUDA or Ray's threads, and importing torch and the
    main module in each takes seconds. The one that is forked idles until this process ends, and
    does not hear the signals that torchrun sends to all processes of a worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    resource_tracker.ensure_running()  # which the other would start, and then let signals in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ANSWERED_BY_TRAINING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _unchanged(batch: Anything) -> Anything:
    return batch


def _leave_signals(_number: int) -> None:
    """Let the training process answer the signals to save, which may come to all processes."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_PATIENCE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ANSWERED_BY_TRAINING)
