"""Sorts image files into classes and splits; imports no torch, so mistakes show at once."""

import hashlib
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from mimflow_train.data.copy_record import require_whole
from mimflow_train.data.files import FolderLayout, Found, ImageFiles
from mimflow_train.data.index import read_index, write_index
from mimflow_train.data.scan import Scan, scan_images
from mimflow_train.data.tars import EXTENSIONS, is_hidden, is_image
from mimflow_train.errors import DataError

__all__ = ["read_layout"]

_HELD_OUT_SHARE = 8  # one file in eight, where the folder has no val/
_EXPECTED = "Expected DIR/CLASS/*.png, or DIR/train/CLASS and DIR/val/CLASS"


def read_layout(root: Path, say: Callable[[str], None] = lambda _: None) -> FolderLayout:
    """Return the files of ``DIR/CLASS/*``, or ``DIR/train/CLASS/*`` with ``DIR/val/CLASS/*``.

    A tar counts as the folder that it unpacks to, CLASS.tar as the folder CLASS, and
    ``ILSVRC2012_img_train.tar`` as ``train``. Without held-out images one file in eight is held
    out, chosen by its name. The list of a large folder is kept in the user's cache folder until
    a folder or tar of it changes.

    Args:
        root: The folder or tar.
        say: Receives a sentence about what was left out.

    Raises:
        DataError: If it is missing, empty, damaged, an unfinished copy, or not laid out in classes.
    """
    if not root.exists():
        raise DataError(f"{_EXPECTED}; there is no folder {root}. Check the path.")
    require_whole(root)
    layout = read_index(root)
    if layout is None:
        began = time.time_ns()
        scan = scan_images(root)
        layout = _lay_out(root, scan)
        write_index(root, layout, scan.sources, began)
    if layout.remark:
        say(layout.remark)
    return layout


def _lay_out(root: Path, scan: Scan) -> FolderLayout:
    val = [each for each in scan.found if each.name.startswith("val/")]
    rest = [each for each in scan.found if not each.name.startswith("val/")]
    in_train = (root / "train").is_dir() or any(each.name.startswith("train/") for each in rest)
    prefix = "train/" if in_train else ""
    by_class = _by_class(rest, prefix)
    if not by_class:
        raise _no_images(root / prefix)
    classes = tuple(by_class)
    train = _numbered(by_class, classes)
    if val or (root / "val").is_dir():
        val_by_class = _by_class(val, "val/")
        if not val_by_class:
            raise _no_images(root / "val")
        _require_known(val_by_class, classes, root / "val")
        held_out = _numbered(val_by_class, classes)
    else:
        train, held_out = _hold_out(train, prefix)
    _require_enough(root, classes, len(train), len(held_out))
    archives = tuple(scan.archives)
    return FolderLayout(
        classes,
        ImageFiles.of(root, archives, train),
        ImageFiles.of(root, archives, held_out),
        scan.remark,
    )


def _by_class(found: list[Found], prefix: str) -> dict[str, list[Found]]:
    """Sort files by class and path; those that lie in no class folder are left out."""
    inside = (each for each in found if each.name.startswith(prefix))
    files = [(each.name.removeprefix(prefix).split("/"), each) for each in inside]
    files = sorted((each for each in files if len(each[0]) > 1), key=lambda each: each[0])
    return {
        name: [each for _, each in group] for name, group in groupby(files, lambda each: each[0][0])
    }


def _numbered(files: dict[str, list[Found]], classes: tuple[str, ...]) -> list[tuple[Found, int]]:
    return [(each, label) for label, name in enumerate(classes) for each in files.get(name, ())]


def _hold_out(
    items: list[tuple[Found, int]], prefix: str
) -> tuple[list[tuple[Found, int]], list[tuple[Found, int]]]:
    """Hold out one file in eight by its name, and of each class at least one but not the first."""
    train: list[tuple[Found, int]] = []
    held_out: list[tuple[Found, int]] = []
    for _, group in groupby(items, lambda item: item[1]):
        first, *others = group
        drawn = [_drawn(each.name.removeprefix(prefix)) for each, _ in others]
        chosen = {i for i, number in enumerate(drawn) if number % _HELD_OUT_SHARE == 0}
        if others and not chosen:
            chosen = {drawn.index(min(drawn))}
        train.append(first)
        for i, item in enumerate(others):
            (held_out if i in chosen else train).append(item)
    return train, held_out


def _drawn(name: str) -> int:
    """Return a number from 0 to 255 that a name draws."""
    return hashlib.blake2b(name.encode(errors="surrogateescape")).digest()[0]


def _no_images(folder: Path) -> DataError:
    if folder.is_file():
        return DataError(
            f"{_EXPECTED} in the tar; {folder} has no images in folders. Check the path."
        )
    inside = [each for each in folder.iterdir() if not is_hidden(each.name)]
    loose = sum(is_image(each.name) for each in inside)
    advice = "Check the path."
    if loose:
        advice = f"Move the {loose} image(s) beside them into a folder for each class."
    return DataError(
        f"{_EXPECTED}; {folder} has {sum(each.is_dir() for each in inside)} sub-folder(s) and none "
        f"with images ({' '.join(sorted(EXTENSIONS))}). {advice}"
    )


def _require_known(files: dict[str, list[Found]], classes: tuple[str, ...], root: Path) -> None:
    unknown = sorted(set(files) - set(classes))
    if unknown:
        raise DataError(
            f"Expected in {root} only classes that the training folder has; got also "
            f"{', '.join(unknown)}. Rename or remove them."
        )


def _require_enough(root: Path, classes: tuple[str, ...], train: int, held_out: int) -> None:
    if len(classes) < 2:
        raise DataError(
            f"Expected at least 2 classes in {root}; got {', '.join(classes)} alone. "
            "Sort the images into two or more sub-folders."
        )
    if train < 2 or held_out < 2:
        raise DataError(
            f"Expected at least 2 images to train on and 2 to hold out under {root}; "
            f"got {train} and {held_out}. Add images."
        )
