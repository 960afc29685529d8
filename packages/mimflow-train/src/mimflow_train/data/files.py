"""Image files in a folder or in tars, as columns: 1.28 million of them take 70 MB. No torch."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from mimflow_train.storage.retries import with_retries

__all__ = ["PLAIN", "FolderLayout", "Found", "ImageFiles"]

PLAIN = -1  # a file of its own, not a member of a tar
_MOST_NAMED = 3  # classes in a sentence
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds


@dataclass(frozen=True, slots=True)
class Found:
    """One image file.

    Attributes:
        name: Its path below the root, as if every tar were unpacked.
        size: Bytes.
        archive: Number of the tar that holds it, or ``PLAIN``.
        offset: Where its bytes start in the tar.
    """

    name: str
    size: int
    archive: int = PLAIN
    offset: int = 0


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled image files, readable from any process.

    Attributes:
        root: The folder or tar that the user named.
        archives: Tars that hold members.
        names: Path of each file below the root, as if every tar were unpacked, in bytes.
        labels: Class number of each.
        sizes: Bytes of each.
        archive: Number of the tar that holds it; ``PLAIN`` for a file of its own.
        offsets: Where its bytes start in the tar.
    """

    root: Path
    archives: tuple[Path, ...]
    names: Shaped[np.ndarray, " m"]
    labels: Int64[np.ndarray, " m"]
    sizes: Int64[np.ndarray, " m"]
    archive: Int64[np.ndarray, " m"]
    offsets: Int64[np.ndarray, " m"]

    @classmethod
    def of(
        cls, root: Path, archives: tuple[Path, ...], items: list[tuple[Found, int]]
    ) -> "ImageFiles":
        """Return the columns of files and their class numbers."""
        numbers = np.array(
            [(label, each.size, each.archive, each.offset) for each, label in items], dtype=np.int64
        ).reshape(-1, 4)
        names = np.array([os.fsencode(each.name) for each, _ in items], dtype=np.bytes_)
        return cls(root, archives, names, *np.ascontiguousarray(numbers.T))

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> "ImageFiles":
        """Return some of the files."""
        columns = (self.names, self.labels, self.sizes, self.archive, self.offsets)
        return ImageFiles(self.root, self.archives, *(column[rows] for column in columns))

    def name(self, index: int) -> str:
        """Return the path of a file below the root."""
        return os.fsdecode(bytes(self.names[index]))

    def place(self, index: int) -> Path:
        """Return where a file is, for a person; ``X.tar/CLASS/NAME`` for a member of a tar."""
        archive = int(self.archive[index])
        return (self.root if archive == PLAIN else self.archives[archive]) / self.name(index)

    def read(self, index: int) -> bytes:
        """Return the bytes of a file; where a storage is away, wait for it up to a minute.

        Raises:
            OSError: If it is not there, or the tar ends before the member does.
        """
        return with_retries(lambda: self._read(index), _WAITS)

    def _read(self, index: int) -> bytes:
        archive, offset = int(self.archive[index]), int(self.offsets[index])
        if archive == PLAIN:
            return self.place(index).read_bytes()
        with self.archives[archive].open("rb", buffering=0) as tar:
            return _pread(tar.fileno(), int(self.sizes[index]), offset)


@dataclass(frozen=True, eq=False)
class FolderLayout:
    """Image files of a data set.

    Attributes:
        class_names: Names of the classes, in order.
        train: Files to train on.
        held_out: Files that training never sees.
        remark: What was left out; a sentence for each thing, or nothing.
    """

    class_names: tuple[str, ...]
    train: ImageFiles
    held_out: ImageFiles
    remark: str = ""

    @property
    def described(self) -> str:
        """How many images there are, and which classes have none to judge by; a sentence."""
        counts = np.bincount(self.held_out.labels, minlength=len(self.class_names))
        absent = [name for name, count in zip(self.class_names, counts, strict=True) if not count]
        text = f"{len(self.train):,} images to train on and {len(self.held_out):,} held out, "
        if len(self.class_names) == 1:
            return f"{text}of one class, so that none is learned."
        text += f"in {len(self.class_names):,} classes"
        if absent:
            more = ", ..." if len(absent) > _MOST_NAMED else ""
            text += (
                f"; {len(absent):,} of them without a held-out image "
                f"({', '.join(absent[:_MOST_NAMED])}{more})"
            )
        return f"{text}."

    @property
    def fingerprint(self) -> str:
        """Hash of the classes and of every file's name, size, class and split.

        The same for a tar and for the folder that it unpacks to. Pixels are not looked at.
        """
        classes = "/".join(self.class_names).encode(errors="surrogateescape")
        digest = hashlib.blake2b(classes, digest_size=16)
        for files in (self.train, self.held_out):
            digest.update(b"\0".join(files.names.tolist()))
            digest.update(files.labels.astype("<i8").tobytes())
            digest.update(files.sizes.astype("<i8").tobytes())
        return digest.hexdigest()


def _pread(file: int, size: int, offset: int) -> bytes:
    """Read at a place; one call may return less than asked for on a network drive."""
    parts, missing = [], size
    while missing:
        part = os.pread(file, missing, offset + size - missing)
        if not part:
            raise OSError(f"the tar ends {missing} bytes too early")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
