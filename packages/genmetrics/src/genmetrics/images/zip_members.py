"""Members of zip archives, checked against their CRC-32, from any thread. Imports no torch."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from genmetrics.errors import BadInput, GenmetricsError

__all__ = ["TORN", "Checksum", "list_members", "open_npz", "read_member", "seek_to_content"]

# What reading a damaged archive raises; NotImplementedError is that of a damaged version.
TORN = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_BLOCK = 2**20  # bytes whose CRC-32 is taken at a time


def list_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return the directory of an archive.

    Raises:
        BadInput: If the file is not an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except TORN as error:
        raise BadInput(
            f"Expected a zip archive in {path}; got {error}. Fetch or make it again."
        ) from error


def read_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a member, checked against its CRC-32.

    The archive is opened for each call, so that threads share no state.

    Raises:
        BadInput: If the member is damaged, encrypted or packed in a rare way; names it.
    """
    try:
        if member.flag_bits & 1 or member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise zipfile.BadZipFile("an encrypted or unusual compression")
        with path.open("rb") as file:
            seek_to_content(file, member)
            content = file.read(member.compress_size)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompress(content, wbits=-zlib.MAX_WBITS)
        if zlib.crc32(content) != member.CRC:
            raise zipfile.BadZipFile("another CRC-32 than its directory says")
    except TORN as error:
        raise BadInput(
            f"Expected a whole member {member.filename} in {path}; got {error}. Make the zip again."
        ) from error
    return content


def seek_to_content(file: BinaryIO, member: zipfile.ZipInfo) -> None:
    """Set a file to where a member's bytes begin."""
    file.seek(member.header_offset + 26)  # lengths of name and extra field, local header
    file.seek(sum(np.frombuffer(file.read(4), "<u2").tolist()), 1)


class Checksum:
    """The CRC-32 of a member of an ``.npz``, compared once, before the first of it is used.

    Args:
        path: The archive.
        member: A member that is mapped, which compares nothing.
    """

    _one_at_a_time = Lock()

    def __init__(self, path: Path, member: zipfile.ZipInfo) -> None:
        self._path = path
        self._member = member
        self._compared = False
        self._error: Exception | None = None

    def require_whole(self) -> None:
        """Raise unless the member is what was written; other threads wait meanwhile.

        Raises:
            BadInput: If its bytes have another CRC-32; names the file.
        """
        with self._one_at_a_time:
            if not self._compared:
                self._error, self._compared = self._compare(), True
        if self._error is not None:
            raise _torn_archive(self._path, self._error) from self._error

    def _compare(self) -> Exception | None:
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as content:
                while content.read(_BLOCK):  # compares at the end
                    pass
        except TORN as error:
            return error
        return None


@contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an ``.npz``, unpickling nothing, until the end of the block.

    Args:
        path: The file.

    Raises:
        BadInput: If it is no archive, or is found to be damaged in the block; names it.
    """
    try:
        # Opened here, since np.load leaves the file of a torn archive open.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # which np.load takes for an array or a pickle
                raise zipfile.BadZipFile("no zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
    except GenmetricsError:
        raise
    except TORN as error:
        raise _torn_archive(path, error) from error


def _torn_archive(path: Path, error: Exception) -> BadInput:
    """Return the error for an ``.npz`` that cannot be read, with what numpy said of it."""
    said = str(error).partition(". ")[0].rstrip(".")
    found = said if zipfile.is_zipfile(path) else "no zip archive"
    return BadInput(
        f"Expected an .npz file of arrays in {path}; got {found}. Save it again with np.savez."
    )
