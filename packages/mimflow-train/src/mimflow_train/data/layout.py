"""Finds the classes and files of an image folder; imports no torch, so mistakes show at once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mimflow_train.errors import DataError

__all__ = ["FolderLayout", "read_layout"]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm"})
_HELD_OUT_SHARE = 8  # one file in eight, where the folder has no val/
_EXPECTED = "Expected DIR/CLASS/*.png, or DIR/train/CLASS and DIR/val/CLASS"


@dataclass(frozen=True)
class FolderLayout:
    """Files of a folder of class sub-folders.

    Attributes:
        class_names: Names of the sub-folders, in order.
        train: File and class number of each training image.
        held_out: File and class number of each image that training never sees.
    """

    class_names: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    held_out: tuple[tuple[Path, int], ...]


def read_layout(root: Path) -> FolderLayout:
    """Index ``DIR/CLASS/*``, or ``DIR/train/CLASS/*`` with ``DIR/val/CLASS/*``.

    Without a ``val`` folder one file in eight is held out, chosen by its name.

    Args:
        root: The folder.

    Raises:
        DataError: If it is missing, empty, or not laid out in classes.
    """
    if not root.is_dir():
        raise DataError(f"{_EXPECTED}; there is no folder {root}. Check --data.")
    train_root = root / "train" if (root / "train").is_dir() else root
    train_files = _files_by_class(train_root)
    classes = tuple(train_files)
    train = _numbered(train_files, classes)
    if (root / "val").is_dir():
        val_files = _files_by_class(root / "val")
        _require_known(val_files, classes, root / "val")
        held_out = _numbered(val_files, classes)
    else:
        first_of_class = {paths[0] for paths in train_files.values()}  # so that none is empty
        held_out = [
            item
            for item in train
            if item[0] not in first_of_class and _is_held_out(item[0].relative_to(train_root))
        ]
        kept = set(held_out)
        train = [item for item in train if item not in kept]
    if len(classes) < 2:
        raise DataError(
            f"Expected at least 2 classes in {root}; got {', '.join(classes)} alone. "
            "Sort the images into two or more sub-folders."
        )
    if len(train) < 2 or len(held_out) < 2:
        raise DataError(
            f"Expected at least 2 images to train on and 2 to hold out under {root}; "
            f"got {len(train)} and {len(held_out)}. Add images."
        )
    return FolderLayout(classes, tuple(train), tuple(held_out))


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    folders = sorted(each for each in root.iterdir() if each.is_dir())
    found = {each.name: _images(each.rglob("*")) for each in folders}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        loose = len(_images(root.iterdir()))
        advice = "Check --data."
        if loose:
            advice = f"Move the {loose} image(s) beside them into a folder for each class."
        raise DataError(
            f"{_EXPECTED}; {root} has {len(folders)} sub-folder(s) and none with images "
            f"({' '.join(sorted(EXTENSIONS))}). {advice}"
        )
    return found


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(each for each in paths if each.suffix.lower() in EXTENSIONS)


def _numbered(files: dict[str, list[Path]], classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [(path, label) for label, name in enumerate(classes) for path in files.get(name, ())]


def _require_known(files: dict[str, list[Path]], classes: tuple[str, ...], root: Path) -> None:
    unknown = sorted(set(files) - set(classes))
    if unknown:
        raise DataError(
            f"Expected in {root} only classes that the training folder has; got also "
            f"{', '.join(unknown)}. Rename or remove them."
        )


def _is_held_out(path: Path) -> bool:
    return hashlib.blake2b(path.as_posix().encode()).digest()[0] % _HELD_OUT_SHARE == 0
