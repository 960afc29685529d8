"""Finds image files inside tars without unpacking them; imports no torch."""

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from genmetrics.images.pictures import EXTENSIONS
from mimflow_train.data.files import Found
from mimflow_train.data.left_out import LeftOut
from mimflow_train.data.naming import is_hidden, is_image
from mimflow_train.errors import DataError

__all__ = ["class_tar", "members", "tar_of_tars", "whole_tar"]

_PACKED = frozenset({".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})


def whole_tar(path: Path, left_out: LeftOut) -> list[Found]:
    """Return the images of a tar with a folder for each class, without folders around them all.

    Args:
        path: The tar.
        left_out: Counts images of other kinds.

    Raises:
        DataError: If it is not a whole, uncompressed tar.
    """
    _require_tar(path)
    found = [each for each in members(path, 0, left_out) if left_out.reads(each.name)]
    names = [PurePosixPath(each.name).parts for each in found]
    depth = 0
    while names and all(len(parts) > depth + 2 for parts in names):
        around = {parts[depth] for parts in names}
        if len(around) > 1 or around & {"train", "val"}:
            break
        depth += 1
    return [
        Found("/".join(parts[depth:]), each.size, 0, each.offset)
        for parts, each in zip(names, found, strict=True)
    ]


def class_tar(path: Path, archive: int, prefix: str, left_out: LeftOut) -> list[Found]:
    """Return the images of ``CLASS.tar`` as files of ``prefix``CLASS.

    Args:
        path: The tar; its images may or may not lie in a folder CLASS.
        archive: Its number.
        prefix: ``train/``, ``val/`` or nothing.
        left_out: Counts images of other kinds.

    Raises:
        DataError: If it is not a whole, uncompressed tar.
    """
    found = []
    for each in members(path, archive, left_out):
        if left_out.reads(each.name):
            name = f"{prefix}{path.stem}/{each.name.removeprefix(f'{path.stem}/')}"
            found.append(Found(name, each.size, archive, each.offset))
    return found


def tar_of_tars(path: Path, archive: int, left_out: LeftOut) -> list[Found]:
    """Return the images of a tar of CLASS.tar, ImageNet's training set, as files of train/CLASS.

    Args:
        path: The tar.
        archive: Its number.
        left_out: Counts images of other kinds.

    Raises:
        DataError: If it or a tar in it is not whole and uncompressed.
    """
    found = []
    with _opened(path) as outer:
        for inner in _files(outer, left_out):
            path_inside = PurePosixPath(inner.name)
            if path_inside.suffix != ".tar" or any(map(is_hidden, path_inside.parts)):
                continue
            name = f"train/{path_inside.stem}"
            window = outer.extractfile(inner)
            assert window is not None
            with window, tarfile.open(fileobj=window, mode="r:") as tar:
                found += [
                    Found(
                        f"{name}/{each.name}",
                        each.size,
                        archive,
                        inner.offset_data + each.offset_data,
                    )
                    for each in _files(tar, left_out)
                    if left_out.reads(each.name)
                ]
    return _last_of_each_name(found)


def members(path: Path, archive: int, left_out: LeftOut) -> list[Found]:
    """Return the regular files of a tar; of those of one name the last, which unpacking leaves.

    Args:
        path: The tar.
        archive: Its number.
        left_out: Counts images that are links.

    Raises:
        DataError: If it is not a whole, uncompressed tar.
    """
    with _opened(path) as tar:
        return _last_of_each_name(
            Found(each.name.removeprefix("./"), each.size, archive, each.offset_data)
            for each in _files(tar, left_out)
        )


def _last_of_each_name(found: Iterable[Found]) -> list[Found]:
    return list({each.name: each for each in found}.values())


def _require_tar(path: Path) -> None:
    """Refuse a file that neither is called a tar nor begins like one."""
    if path.suffix.lower() == ".tar":
        return
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        raise DataError(
            f"Expected a folder, or a tar that is not compressed; got the file {path}. "
            f"{_advice(path.suffix.lower())}"
        ) from error


def _advice(suffix: str) -> str:
    """Return what to do with a file that is no tar."""
    if suffix in EXTENSIONS:
        return "Give the folder that has a folder for each class."
    if suffix in _PACKED:
        return "Unpack it and give the folder."
    if suffix in {".npz", ".npy"}:
        return "Save its images as files in a folder for each class."
    return "Give a folder with a folder for each class."


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"Expected a whole, uncompressed tar; {path} is none ({error}). "
            "Copy it again, or unpack it and give the folder."
        ) from error


def _files(tar: tarfile.TarFile, left_out: LeftOut) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would remember a million of them
        if member.isreg() and not member.issparse():
            yield member
        elif (member.islnk() or member.issym()) and is_image(member.name.removeprefix("./")):
            left_out.links_in_tars += 1
    # tarfile takes a header that it cannot read for the end; the real end is a block of zeros.
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
