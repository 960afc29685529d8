"""Any folder or tar of class sub-folders of images, decoded once when it fits in memory."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from genmetrics.images.adm_crop import adm_crop_picture
from mimflow_train.data.decoding import UNDECODABLE, load_rgb, reason
from mimflow_train.data.files import FolderLayout, ImageFiles
from mimflow_train.data.images import LabelledImages, MemoryImages, Split, as_tensor
from mimflow_train.errors import DataError

__all__ = ["BadImages", "Decoded", "FolderImages", "ImageReader", "Unreadable", "folder_images"]

_IN_MEMORY_FILES = 20_000


class Unreadable(NamedTuple):
    """A file that could not be decoded, and why."""

    path: Path
    reason: str


class Decoded(NamedTuple):
    """One image, and the files before it in its class that could not be decoded."""

    pixels: UInt8[Tensor, "3 h w"]
    skipped: tuple[Unreadable, ...]


@dataclass(frozen=True)
class ImageReader:
    """Decodes images on demand, in any process: RGB on white, ADM centre crop.

    Attributes:
        files: Where the images are.
        size: Side in pixels.
    """

    files: ImageFiles
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def decode(self, index: int) -> Decoded:
        """Return an image; the next readable one of its class stands in for it.

        Raises:
            DataError: If no image of the class can be decoded.
        """
        labels = self.files.labels
        skipped: list[Unreadable] = []
        for place in ((index + step) % len(labels) for step in range(len(labels))):
            if labels[place] != labels[index]:
                continue
            try:
                image = load_rgb(BytesIO(self.files.read(place)))
                return Decoded(as_tensor(adm_crop_picture(image, self.size)), tuple(skipped))
            except UNDECODABLE as error:
                skipped.append(Unreadable(self.files.place(place), reason(error)))
        raise DataError(
            f"Expected a readable image of the class of {self.files.place(index)}; "
            f"got none ({skipped[0].reason}). Repair or remove the files."
        )


class BadImages:
    """Files that could not be decoded: named once, listed in a file, few tolerated.

    Workers that are given the same file count together.

    Args:
        num_files: Size of the data set; above 0.1 % of it (and above one file) reading stops.
        listing: Text file that receives the names; None to keep no list.
        warn: Receives one sentence for each bad file.
    """

    def __init__(self, num_files: int, listing: Path | None, warn: Callable[[str], None]) -> None:
        self.allowed = max(1, num_files // 1000)
        self.paths: set[Path] = set()
        self._listing, self._warn = listing, warn
        self._lock = threading.Lock()

    def add(self, unreadable: Unreadable) -> None:
        """Record one bad file.

        Raises:
            DataError: If there are now more than the data set may have.
        """
        with self._lock:
            if unreadable.path in self.paths:
                return
            listed = self._listed()
            self.paths |= {*listed, unreadable.path}
            if unreadable.path not in listed:
                self._write(unreadable)
            if len(self.paths) > self.allowed:
                raise DataError(
                    f"Expected at most {self.allowed} unreadable image(s); got {len(self.paths)}: "
                    f"{', '.join(str(each) for each in sorted(self.paths)[:3])} "
                    f"(the latest: {unreadable.reason}). Repair or remove them and run the same "
                    "command again, with a new --out where training has begun."
                )

    def _listed(self) -> set[Path]:
        """Return what other workers have found."""
        if self._listing is None:
            return set()
        try:
            listed = self._listing.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:  # there is none yet, or it cannot be read for a while
            return set()
        return {Path(line) for line in listed.splitlines()}

    def _write(self, unreadable: Unreadable) -> None:
        self._warn(
            f"Cannot decode {unreadable.path} ({unreadable.reason}); "
            "the next readable image of its class stands in for it."
        )
        if self._listing is None:
            return
        with (  # a full disk ends no training
            contextlib.suppress(OSError),
            self._listing.open("a", encoding="utf-8", errors="surrogateescape") as file,
        ):
            file.write(f"{unreadable.path}\n")


class FolderImages:
    """Images decoded when they are asked for.

    Args:
        reader: Decodes them.
        bad: Receives the files that cannot be decoded.
    """

    def __init__(self, reader: ImageReader, bad: BadImages) -> None:
        self.reader, self.bad = reader, bad

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.accept(self.reader.decode(index))

    def accept(self, decoded: Decoded) -> UInt8[Tensor, "3 h w"]:
        """Record what could not be decoded and return the pixels.

        Raises:
            DataError: If that was too much.
        """
        for each in decoded.skipped:
            self.bad.add(each)
        return decoded.pixels


def folder_images(
    layout: FolderLayout, size: int, *, bad_list: Path | None, warn: Callable[[str], None]
) -> LabelledImages:
    """Return the images of a folder: in memory up to 20,000 files a split, else from disk.

    Args:
        layout: The files and their classes.
        size: Side of the images in pixels.
        bad_list: Text file that receives the names of undecodable images; workers may share one.
        warn: Receives one sentence for each of them.

    Raises:
        DataError: If more than 0.1 % of the files, and more than one, cannot be decoded.
    """
    bad = BadImages(len(layout.train) + len(layout.held_out), bad_list, warn)
    return LabelledImages(
        _split(layout.train, size, bad), _split(layout.held_out, size, bad), layout.class_names
    )


def _split(files: ImageFiles, size: int, bad: BadImages) -> Split:
    images = FolderImages(ImageReader(files, size), bad)
    labels = torch.from_numpy(files.labels)
    if len(files) > _IN_MEMORY_FILES:
        return Split(images, labels)
    pixels = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    pool = ThreadPoolExecutor()
    try:
        for index, each in enumerate(pool.map(images.reader.decode, range(len(files)))):
            pixels[index] = images.accept(each)
    finally:
        pool.shutdown(cancel_futures=True)
    return Split(MemoryImages(pixels), labels)
