"""Finds the image files of a folder or of tars, and what to watch for changes; no torch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mimflow_train.data.files import Found
from mimflow_train.data.imagenet import DEVKIT, TRAIN_TAR, VAL_TAR, validation_classes
from mimflow_train.data.left_out import LeftOut
from mimflow_train.data.naming import SPLITS, held_out_folder, is_hidden
from mimflow_train.data.tars import class_tar, members, tar_of_tars, whole_tar
from mimflow_train.errors import DataError

__all__ = ["Scan", "scan_images", "stamp"]


@dataclass
class Scan:
    """What lies under a root.

    Attributes:
        found: Image files, named ``CLASS/..``, or ``train/CLASS/..`` and ``val/CLASS/..``; also
            those that lie in no class folder, or in another split's beside ``train``.
        archives: Tars that hold some of them, by number.
        sources: Each folder and tar that was read, with its stamp from before it was.
        folders: Names of the folders of the root.
        left_out: What is not read.
    """

    found: list[Found] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)
    sources: dict[Path, tuple[int, int]] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    left_out: LeftOut = field(default_factory=LeftOut)

    def watch(self, path: Path) -> Path:
        """Remember the stamp of a folder or tar that is about to be read."""
        self.sources[path] = stamp(path)
        return path

    def add_archive(self, path: Path) -> int:
        """Return the number of a tar that is about to be read."""
        self.archives.append(self.watch(path))
        return len(self.archives) - 1


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file enters or leaves a folder, or a tar is written."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def scan_images(root: Path) -> Scan:
    """Look through a folder or tar.

    Training images are those of ``train/``, else of ``ILSVRC2012_img_train.tar``, else of the root;
    held-out ones those of ``val/``, or beside ``train/`` of ``valid/`` or ``validation/``, else of
    ``ILSVRC2012_img_val.tar`` with its development kit.

    Args:
        root: A tar; or a folder of class folders, of CLASS.tar, or of ImageNet's tars.

    Raises:
        DataError: If a tar is damaged.
    """
    scan = Scan()
    if root.is_file():
        scan.add_archive(root)
        scan.found = whole_tar(root, scan.left_out)
        return scan
    inside = _folders(scan, root, "")
    scan.folders = {each.name for each in inside}
    if "train" in scan.folders:
        _add_split(scan, root / "train", "train/")
    elif (root / TRAIN_TAR).is_file():
        number = scan.add_archive(root / TRAIN_TAR)
        scan.found += tar_of_tars(root / TRAIN_TAR, number, scan.left_out)
        scan.folders.add("train")
    else:
        _add_classes(scan, root, [each for each in inside if each.name != "val"], "")
    held_out = held_out_folder(scan.folders)
    if held_out:
        _add_split(scan, root / held_out, f"{held_out}/")
    elif (root / VAL_TAR).is_file():
        _add_validation(scan, root)
    if "train" in scan.folders:
        for name in scan.folders - {"train", held_out}:
            if name.lower() in SPLITS:
                scan.found += _walk(scan, root / name, f"{name}/")
    return scan


def _folders(scan: Scan, folder: Path, prefix: str) -> list[Path]:
    """Return the folders in a folder; add the images beside them, note links not followed."""
    folders = []
    for each in scan.watch(folder).iterdir():
        if is_hidden(each.name):
            continue
        if each.is_dir() and _leads_back(each):
            scan.left_out.linked_folders.append(f"{prefix}{each.name}")
        elif each.is_dir():
            folders.append(each)
        elif not each.exists():
            scan.left_out.links.append(f"{prefix}{each.name}")
        elif scan.left_out.reads(each.name):
            scan.found.append(Found(f"{prefix}{each.name}", each.stat().st_size))
    return folders


def _leads_back(path: Path) -> bool:
    """Whether it is a link to a folder around it, such as `latest -> .`, which has all classes."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _add_split(scan: Scan, folder: Path, prefix: str) -> None:
    _add_classes(scan, folder, _folders(scan, folder, prefix), prefix)


def _add_classes(scan: Scan, folder: Path, classes: list[Path], prefix: str) -> None:
    """Add the images of the class folders, or of CLASS.tar where no folder has any."""
    found = [each for one in classes for each in _walk(scan, one, f"{prefix}{one.name}/")]
    if not found:
        for tar in sorted(folder.glob("*.tar")):
            if tar.name != VAL_TAR and not is_hidden(tar.name):
                found += class_tar(tar, scan.add_archive(tar), prefix, scan.left_out)
    scan.found += found


def _walk(scan: Scan, folder: Path, prefix: str) -> Iterator[Found]:
    with os.scandir(scan.watch(folder)) as entries:
        for each in entries:
            if is_hidden(each.name):
                continue
            if each.is_dir(follow_symlinks=False):
                yield from _walk(scan, Path(each.path), f"{prefix}{each.name}/")
            elif scan.left_out.reads(each.name):
                yield from _image(scan, each, f"{prefix}{each.name}")
            elif each.is_symlink() and each.is_dir():
                scan.left_out.linked_folders.append(f"{prefix}{each.name}")


def _image(scan: Scan, entry: os.DirEntry[str], name: str) -> Iterator[Found]:
    try:
        size = entry.stat().st_size
    except FileNotFoundError:
        scan.left_out.links.append(name)
    except OSError:  # such as a link to what may not be read: named when it is to be decoded
        yield Found(name, 0)
    else:
        yield Found(name, size)


def _add_validation(scan: Scan, root: Path) -> None:
    """Add ImageNet's validation images, whose classes stand in another file."""
    if not (root / DEVKIT).is_file():
        scan.left_out.validation = (
            f"{VAL_TAR} is left out and one training image in eight held out instead: the classes "
            f"of its images stand in {DEVKIT}, which is not beside it."
        )
        return
    classes = validation_classes(scan.watch(root / DEVKIT))
    number = scan.add_archive(root / VAL_TAR)
    found = members(root / VAL_TAR, number, scan.left_out)
    images = sorted(
        (each for each in found if scan.left_out.reads(each.name)), key=lambda each: each.name
    )
    if len(images) != len(classes):
        raise DataError(
            f"Expected {len(classes)} images in {root / VAL_TAR}, as {DEVKIT} has classes; "
            f"got {len(images)}. Download both again."
        )
    scan.found += [
        Found(f"val/{name}/{each.name}", each.size, number, each.offset)
        for name, each in zip(classes, images, strict=True)
    ]
