"""Any folder of class sub-folders of images, decoded once when it fits in memory."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mimflow_train.data.crop import crop_square, load_rgb
from mimflow_train.data.images import LabelledImages, MemoryImages, Split, as_tensor
from mimflow_train.data.layout import FolderLayout
from mimflow_train.errors import DataError

__all__ = ["BadImages", "FolderImages", "folder_images"]

_IN_MEMORY_FILES = 20_000


class BadImages:
    """Files that could not be decoded: named once, listed in a file, few tolerated.

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

    def add(self, path: Path, error: Exception) -> None:
        """Record one bad file.

        Raises:
            DataError: If there are now more than the data set may have.
        """
        with self._lock:
            if path in self.paths:
                return
            self.paths.add(path)
            self._warn(f"Cannot decode {path} ({error}); the next readable image stands in for it.")
            if self._listing is not None:
                self._listing.write_text("".join(f"{each}\n" for each in sorted(self.paths)))
            if len(self.paths) > self.allowed:
                raise DataError(
                    f"Expected at most {self.allowed} unreadable image(s); got {len(self.paths)}: "
                    f"{', '.join(str(each) for each in sorted(self.paths)[:3])}. "
                    "Repair or remove them and run the same command again."
                )


class FolderImages:
    """Images decoded on demand: RGB on white, ADM centre crop.

    Args:
        items: File and class number of each image.
        size: Side in pixels.
        bad: Where undecodable files are reported; the next readable one of the class stands in.
    """

    def __init__(self, items: Sequence[tuple[Path, int]], size: int, bad: BadImages) -> None:
        self.items, self.size, self.bad = items, size, bad

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        wanted = self.items[index][1]
        for path, label in (*self.items[index:], *self.items[:index]):
            if label != wanted:
                continue
            try:
                return as_tensor(crop_square(load_rgb(path), self.size))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                self.bad.add(path, error)
        raise DataError(
            f"Expected a readable image of the class of {self.items[index][0]}; got none."
        )


def folder_images(
    layout: FolderLayout, size: int, *, bad_list: Path | None, warn: Callable[[str], None]
) -> LabelledImages:
    """Return the images of a folder: in memory up to 20,000 files a split, else from disk.

    Args:
        layout: The files and their classes.
        size: Side of the images in pixels.
        bad_list: Text file that receives the names of undecodable images.
        warn: Receives one sentence for each of them.

    Raises:
        DataError: If more than 0.1 % of the files, and more than one, cannot be decoded.
    """
    bad = BadImages(len(layout.train) + len(layout.held_out), bad_list, warn)
    return LabelledImages(
        _split(layout.train, size, bad), _split(layout.held_out, size, bad), layout.class_names
    )


def _split(items: Sequence[tuple[Path, int]], size: int, bad: BadImages) -> Split:
    images: FolderImages | MemoryImages = FolderImages(items, size, bad)
    if len(items) <= _IN_MEMORY_FILES:
        with ThreadPoolExecutor() as pool:
            images = MemoryImages(
                torch.stack(list(pool.map(images.__getitem__, range(len(items)))))
            )
    return Split(images, torch.tensor([label for _, label in items]))
