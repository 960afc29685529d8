"""Sets of picture files, in a folder or in a zip archive. Imports no torch."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from genmetrics.errors import BadInput
from genmetrics.images.contents import Contents, content_remarks
from genmetrics.images.pictures import NOTICED, decode, picture_remarks, size_in_header
from genmetrics.images.zip_members import read_member

_LISTED = 20


class ImageFolder:
    """The picture files of a folder, as 8-bit RGB. Transparency is dropped and remarked upon.

    Args:
        path: The folder.
        files: Pictures in it, in order.
        labels: Class of each picture, or None.
        skipped: Names of pictures that were left out because they cannot be read.
        allow_16bit: Whether to keep the upper 8 bits of pictures that have 16.
    """

    kind = "folder"

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        labels: Int64[np.ndarray, " n"] | None = None,
        skipped: Sequence[str] = (),
        *,
        allow_16bit: bool = False,
    ) -> None:
        self.path = path
        self.files = files
        self.labels = labels
        self.skipped = skipped
        self.allow_16bit = allow_16bit
        self.contents: Contents | None = None
        self.num_deeper = 0  # pictures in folders that were not read
        self.noticed = np.zeros(len(files), NOTICED)  # filled in as they are read

    def __len__(self) -> int:
        return len(self.files)

    @property
    def names(self) -> list[str]:
        """Paths below the folder."""
        return [file.relative_to(self.path).as_posix() for file in self.files]

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image.

        Raises:
            BadInput: If the file cannot be decoded or has more than 8 bits; names the file.
        """
        file = self.files[index]
        image, noticed = decode(file, str(file), allow_16bit=self.allow_16bit)
        self.noticed[index] = noticed
        return image

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of one image, from its header.

        Raises:
            BadInput: If the file has none; names it.
        """
        return size_in_header(self.files[index], str(self.files[index]))

    def select(self, indices: Sequence[int]) -> "ImageFolder":
        """Return the images at these places only, in this order."""
        files = [self.files[index] for index in indices]
        labels = _labels_at(self.labels, indices)
        chosen = ImageFolder(self.path, files, labels, self.skipped, allow_16bit=self.allow_16bit)
        chosen.num_deeper = self.num_deeper
        return chosen

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and modification times.

        Raises:
            BadInput: If a file has gone.
        """
        try:
            stats = [file.stat() for file in self.files]
        except OSError as error:
            raise BadInput(f"Expected the images to stay; got {error}. Open them again.") from error
        rows = zip(self.names, stats, strict=True)
        return _digest((name, stat.st_size, stat.st_mtime_ns) for name, stat in rows)

    def remarks(self) -> list[str]:
        """Say what was skipped, not read, converted, lossy, of another size, plain or repeated."""
        return _remarks(self)


class ImageZip:
    """The picture files of a zip archive, as 8-bit RGB.

    Args:
        path: The archive.
        members: Pictures in it, in order.
        labels: Class of each picture, or None.
        skipped: Names of pictures that were left out because they cannot be read.
        allow_16bit: Whether to keep the upper 8 bits of pictures that have 16.
    """

    kind = "zip"

    def __init__(
        self,
        path: Path,
        members: Sequence[zipfile.ZipInfo],
        labels: Int64[np.ndarray, " n"] | None = None,
        skipped: Sequence[str] = (),
        *,
        allow_16bit: bool = False,
    ) -> None:
        self.path = path
        self.members = members
        self.labels = labels
        self.skipped = skipped
        self.allow_16bit = allow_16bit
        self.contents: Contents | None = None
        self.num_deeper = 0  # pictures in folders that were not read
        self.noticed = np.zeros(len(members), NOTICED)  # filled in as they are read

    def __len__(self) -> int:
        return len(self.members)

    @property
    def names(self) -> list[str]:
        """Paths inside the archive."""
        return [member_name(member) for member in self.members]

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image.

        Raises:
            BadInput: If the member is damaged, cannot be decoded or has more than 8 bits.
        """
        image, noticed = decode(*self._open(index), allow_16bit=self.allow_16bit)
        self.noticed[index] = noticed
        return image

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of one image, from its header.

        Raises:
            BadInput: If the member is damaged or has no header.
        """
        return size_in_header(*self._open(index))

    def _open(self, index: int) -> tuple[io.BytesIO, str]:
        """Return the bytes of a picture and how messages call it."""
        member = self.members[index]
        content = io.BytesIO(read_member(self.path, member))
        return content, f"{self.path}/{member_name(member)}"

    def select(self, indices: Sequence[int]) -> "ImageZip":
        """Return the images at these places only, in this order."""
        members = [self.members[index] for index in indices]
        labels = _labels_at(self.labels, indices)
        chosen = ImageZip(self.path, members, labels, self.skipped, allow_16bit=self.allow_16bit)
        chosen.num_deeper = self.num_deeper
        return chosen

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and the archive's CRC-32s."""
        rows = zip(self.names, self.members, strict=True)
        return _digest((name, member.file_size, member.CRC) for name, member in rows)

    def remarks(self) -> list[str]:
        """Say what was skipped, not read, converted, lossy, of another size, plain or repeated."""
        return _remarks(self)


def member_name(member: zipfile.ZipInfo) -> str:
    """Return the path of a member, never absolute."""
    return member.filename.lstrip("/")


def _labels_at(labels: np.ndarray | None, indices: Sequence[int]) -> np.ndarray | None:
    return None if labels is None else labels[np.asarray(indices, np.int64)]


def _digest(rows: Iterable[tuple[str, int, int]]) -> str:
    """Return the sha256 of lines; names are quoted, so that none can pass for two."""
    return hashlib.sha256("\n".join(map(repr, rows)).encode(errors="surrogateescape")).hexdigest()


def _remarks(source: ImageFolder | ImageZip) -> list[str]:
    contents = content_remarks(source.contents, source.names, source.path)
    pictures = picture_remarks(source.noticed, source.path)
    return [*_skip_remarks(source), *_deeper_remarks(source), *pictures, *contents]


def _deeper_remarks(source: ImageFolder | ImageZip) -> list[str]:
    if not source.num_deeper:
        return []
    return [
        f"{source.num_deeper} images in folders inside of sub-folders of {source.path} were not "
        "read; --recursive reads them (recursive in Python)."
    ]


def _skip_remarks(source: ImageFolder | ImageZip) -> list[str]:
    count = len(source.skipped)
    if not count:
        return []
    more = f" and {count - _LISTED} more" if count > _LISTED else ""
    return [
        f"{count} images in {source.path} cannot be read and are left out of n: "
        f"{', '.join(source.skipped[:_LISTED])}{more}."
    ]
