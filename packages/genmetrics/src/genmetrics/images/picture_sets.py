"""Sets of picture files, in a folder or in a zip archive. Imports no torch."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from genmetrics.errors import BadInput
from genmetrics.images.contents import Contents, content_remarks
from genmetrics.images.pictures import NOTICED, decode, picture_remarks, size_in_header
from genmetrics.images.zip_members import read_member

_LISTED = 20


class PictureSet:
    """The pictures of a folder or zip, as 8-bit RGB. Transparency is dropped and remarked upon.

    Args:
        path: The folder, or the archive.
        entries: Pictures in it, in order: files of the folder, or members of the archive.
        labels: Class of each picture, or None.
        skipped: Names of pictures that were left out because they cannot be read.
        allow_16bit: Whether to keep the upper 8 bits of pictures that have 16.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[Path | zipfile.ZipInfo],
        labels: Int64[np.ndarray, " n"] | None = None,
        skipped: Sequence[str] = (),
        *,
        allow_16bit: bool = False,
    ) -> None:
        self.path = path
        self.kind = "folder" if path.is_dir() else "zip"
        self.entries = entries
        self.labels = labels
        self.skipped = skipped
        self.allow_16bit = allow_16bit
        self.contents: Contents | None = None
        self.num_deeper = 0  # pictures in folders that were not read
        self.noticed = np.zeros(len(entries), NOTICED)  # filled in as they are read

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Paths below the folder or inside the archive."""
        return [
            entry.relative_to(self.path).as_posix()
            if isinstance(entry, Path)
            else member_name(entry)
            for entry in self.entries
        ]

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image.

        Raises:
            BadInput: If the file is damaged, cannot be decoded or has more than 8 bits; names it.
        """
        image, noticed = decode(*self._open(index), allow_16bit=self.allow_16bit)
        self.noticed[index] = noticed
        return image

    def size(self, index: int) -> tuple[int, int]:
        """Return the width and height of one image, from its header.

        Raises:
            BadInput: If the file is damaged or has none; names it.
        """
        return size_in_header(*self._open(index))

    def _open(self, index: int) -> tuple[Path | io.BytesIO, str]:
        """Return a picture's file or bytes, and how messages call it."""
        entry = self.entries[index]
        if isinstance(entry, Path):
            return entry, str(entry)
        content = io.BytesIO(read_member(self.path, entry))
        return content, f"{self.path}/{member_name(entry)}"

    def select(self, indices: Sequence[int]) -> "PictureSet":
        """Return the images at these places only, in this order."""
        entries = [self.entries[index] for index in indices]
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        chosen = PictureSet(self.path, entries, labels, self.skipped, allow_16bit=self.allow_16bit)
        chosen.num_deeper = self.num_deeper
        return chosen

    def fingerprint(self) -> str:
        """Return a digest of names and sizes, and of times of change or the archive's CRC-32s.

        Raises:
            BadInput: If a file has gone.
        """
        try:
            versions = [_version(entry) for entry in self.entries]
        except OSError as error:
            raise BadInput(f"Expected the images to stay; got {error}. Open them again.") from error
        rows = [(name, *version) for name, version in zip(self.names, versions, strict=True)]
        lines = "\n".join(map(repr, rows))  # names are quoted, so that none can pass for two
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    def remarks(self) -> list[str]:
        """Say what was skipped, not read, converted, lossy, of another size, plain or repeated."""
        contents = content_remarks(self.contents, self.names, self.path)
        pictures = picture_remarks(self.noticed, self.path)
        return [*_skip_remarks(self), *_deeper_remarks(self), *pictures, *contents]


def member_name(member: zipfile.ZipInfo) -> str:
    """Return the path of a member, never absolute."""
    return member.filename.lstrip("/")


def _version(entry: Path | zipfile.ZipInfo) -> tuple[int, int]:
    """Return the size of a picture's file, and when it changed or its CRC-32."""
    if isinstance(entry, zipfile.ZipInfo):
        return entry.file_size, entry.CRC
    stat = entry.stat()
    return stat.st_size, stat.st_mtime_ns


def _deeper_remarks(source: PictureSet) -> list[str]:
    if not source.num_deeper:
        return []
    return [
        f"{source.num_deeper} images in folders inside of sub-folders of {source.path} were not "
        "read; --recursive reads them (recursive in Python)."
    ]


def _skip_remarks(source: PictureSet) -> list[str]:
    count = len(source.skipped)
    if not count:
        return []
    more = f" and {count - _LISTED} more" if count > _LISTED else ""
    return [
        f"{count} images in {source.path} cannot be read and are left out of n: "
        f"{', '.join(source.skipped[:_LISTED])}{more}."
    ]
