"""Sorts image files into classes and splits; imports no torch, so mistakes show at once."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from genmetrics.images.pictures import EXTENSIONS
from mimflow_train.data.copy_record import require_whole
from mimflow_train.data.files import FolderLayout, Found, ImageFiles
from mimflow_train.data.imagenet import DEVKIT, TRAIN_TAR, VAL_TAR
from mimflow_train.data.index import read_index, write_index
from mimflow_train.data.left_out import LeftOut
from mimflow_train.data.naming import SPLITS, held_out_folder, is_hidden
from mimflow_train.data.scan import Scan, scan_images
from mimflow_train.errors import ConfigError, DataError

__all__ = ["read_layout", "require_apart"]

_HELD_OUT_SHARE = 8  # one file in eight, where the folder has no val/
_EXPECTED = "Expected DIR/CLASS/*.png, DIR/train/CLASS with DIR/val/CLASS, or DIR/*.png"
_ONE_CLASS = "all"  # of images that lie in no class folder


def read_layout(root: Path, say: Callable[[str], None] = lambda _: None) -> FolderLayout:
    """Return the files of ``DIR/CLASS/*``, or ``DIR/train/CLASS/*`` with ``DIR/val/CLASS/*``.

    Images without class folders are of one class, ``all``.
    ``valid`` and ``validation`` beside ``train`` are ``val``, unless there is one.
    A tar counts as the folder that it unpacks to, CLASS.tar as the folder CLASS, and
    ``ILSVRC2012_img_train.tar`` as ``train``. Without held-out images one file in eight is held
    out, chosen by its name. The list of a large folder is kept in the user's cache folder until
    a folder or tar of it changes.

    Args:
        root: The folder or tar.
        say: Receives what was left out, a sentence for each thing.

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
        if not scan.left_out.links:  # no folder changes when what they lead to comes to be
            write_index(root, layout, scan.sources, began)
    if layout.remark:
        say(layout.remark)
    return layout


def require_apart(out: Path, root: Path) -> None:
    """Refuse to write among the images, where what is written would be taken for some.

    Args:
        out: Where something is about to be written.
        root: What :func:`read_layout` reads.

    Raises:
        ConfigError: If it would be read.
    """
    out, root = out.resolve(), root.resolve()
    has_train = (root / "train").is_dir() or (root / TRAIN_TAR).is_file()
    for folder in (root / name for name in SPLITS) if has_train else (root,):
        if out.is_relative_to(folder) and not any(map(is_hidden, out.relative_to(folder).parts)):
            raise ConfigError(
                f"Expected a folder outside of {folder} to write to, since all images in that are "
                f"read; got {out}. Name one elsewhere."
            )


def _lay_out(root: Path, scan: Scan) -> FolderLayout:
    by_folder = _by_folder(scan.found)
    folders = scan.folders | by_folder.keys()
    val = held_out_folder(folders)
    used = (
        {"train"} if "train" in folders else {name for name in by_folder if not val or name != val}
    )
    prefix = "train/" if "train" in folders else ""
    by_class = _by_class((each for name in used for each in by_folder.get(name, ())), prefix)
    if not by_class:
        raise _no_images(root / prefix)
    _require_classes(root, by_class, prefix)
    classes = tuple(by_class)
    train, held_out = _numbered(by_class, classes), []
    if val:
        val_by_class = _by_class(by_folder.get(val, ()), f"{val}/")
        if not val_by_class:
            raise _no_images(root / val)
        _require_known(root, by_class, val_by_class, prefix, val)
        held_out = _numbered(val_by_class, classes)
    _count_left_out(scan.left_out, by_folder, used | {val}, len(train) + len(held_out))
    if not val:
        train, held_out = _hold_out(train, prefix)
    _require_enough(root, len(train), len(held_out))
    archives = tuple(scan.archives)
    return FolderLayout(
        classes,
        ImageFiles.of(root, archives, train),
        ImageFiles.of(root, archives, held_out),
        scan.left_out.remark(val or "val"),
    )


def _by_class(found: Iterable[Found], prefix: str) -> dict[str, list[Found]]:
    """Sort files by class and path; those that lie in no class folder are left out, or all."""
    inside = (each for each in found if each.name.startswith(prefix))
    files = [(each.name.removeprefix(prefix).split("/"), each) for each in inside]
    if files and all(len(path) == 1 for path, _ in files):
        return {_ONE_CLASS: [each for _, each in sorted(files, key=lambda each: each[0])]}
    files = sorted((each for each in files if len(each[0]) > 1), key=lambda each: each[0])
    return {
        name: [each for _, each in group] for name, group in groupby(files, lambda each: each[0][0])
    }


def _by_folder(found: list[Found]) -> dict[str, list[Found]]:
    """Sort files by the folder of the root that they lie in, loose ones under no name."""
    folders: defaultdict[str, list[Found]] = defaultdict(list)
    for each in found:
        name, below, _ = each.name.partition("/")
        folders[name if below else ""].append(each)
    return folders


def _numbered(files: dict[str, list[Found]], classes: tuple[str, ...]) -> list[tuple[Found, int]]:
    return [(each, label) for label, name in enumerate(classes) for each in files.get(name, ())]


def _hold_out(
    items: list[tuple[Found, int]], prefix: str
) -> tuple[list[tuple[Found, int]], list[tuple[Found, int]]]:
    """Hold out one file in eight by its name; of each class at least one but not the first.

    Of one class alone at least two, without which nothing can be judged.
    """
    least = 1 if len({label for _, label in items}) > 1 else 2
    train: list[tuple[Found, int]] = []
    held_out: list[tuple[Found, int]] = []
    for _, group in groupby(items, lambda item: item[1]):
        first, *others = group
        drawn = [_drawn(each.name.removeprefix(prefix)) for each, _ in others]
        chosen = {i for i, number in enumerate(drawn) if number % _HELD_OUT_SHARE == 0}
        if len(chosen) < least:
            chosen |= set(sorted(range(len(others)), key=drawn.__getitem__)[:least])
        train.append(first)
        for i, item in enumerate(others):
            (held_out if i in chosen else train).append(item)
    return train, held_out


def _drawn(name: str) -> int:
    """Return a number from 0 to 255 that a name draws."""
    return hashlib.blake2b(name.encode(errors="surrogateescape")).digest()[0]


def _no_images(folder: Path) -> DataError:
    if not folder.is_dir():
        return DataError(f"{_EXPECTED} in the tar; {folder} has no images. Check the path.")
    inside = [each for each in folder.iterdir() if not is_hidden(each.name)]
    return DataError(
        f"{_EXPECTED}; {folder} has {sum(each.is_dir() for each in inside)} sub-folder(s) and none "
        f"with images ({' '.join(sorted(EXTENSIONS))}). Check the path."
    )


def _require_classes(root: Path, by_class: dict[str, list[Found]], prefix: str) -> None:
    """Refuse what would be taken for classes: splits of other names, a folder around them all."""
    if all(name.lower() in SPLITS for name in by_class):
        raise DataError(
            f"Expected in {root} the folders train and val, or one for each class; got "
            f"{', '.join(by_class)}. Rename the one to train on to train, one to hold out to val."
        )
    (name, files), *others = by_class.items()
    inside = [each.name.removeprefix(f"{prefix}{name}/").split("/") for each in files]
    if not others and len({first for first, *below in inside if below}) > 1:
        raise DataError(
            f"Expected a folder for each class in {root / prefix}; got {name} alone, which has "
            f"folders itself. Give {root / prefix / name}, or put all its images into one folder."
        )


def _count_left_out(
    left_out: LeftOut, by_folder: dict[str, list[Found]], used: set[str], num_used: int
) -> None:
    """Count what is no image of a class: in other folders, and else loose."""
    for name, files in by_folder.items():
        if name and name not in used:
            left_out.splits[name] += len(files)
    num_found = sum(map(len, by_folder.values()))
    left_out.loose = num_found - num_used - left_out.splits.total()


def _require_known(
    root: Path,
    by_class: dict[str, list[Found]],
    val_by_class: dict[str, list[Found]],
    prefix: str,
    val: str,
) -> None:
    """Refuse held-out classes that nothing is trained on."""
    unknown = sorted(set(val_by_class) - set(by_class))
    if not unknown:
        return
    if _is_flat(val_by_class, f"{val}/"):
        raise _unsorted(
            root / val,
            root / prefix,
            f"or, if they are ImageNet's, give a folder with {VAL_TAR} and {DEVKIT} in place of "
            f"{val}",
        )
    if _is_flat(by_class, prefix):
        raise _unsorted(root / prefix, root / val, f"or take those of {val} out of theirs")
    raise DataError(
        f"Expected in {root / val} only classes that the training folder has; got also "
        f"{', '.join(unknown)}. Rename or remove them."
    )


def _is_flat(by_class: dict[str, list[Found]], prefix: str) -> bool:
    """Whether the images lie in no class folder."""
    files = (each for one in by_class.values() for each in one)
    return not any("/" in each.name.removeprefix(prefix) for each in files)


def _unsorted(flat: Path, other: Path, remedy: str) -> DataError:
    return DataError(
        f"Expected the images of {flat} in class folders, as those of {other} are; got them in "
        f"none. Sort them into such folders, {remedy}."
    )


def _require_enough(root: Path, train: int, held_out: int) -> None:
    if train < 2 or held_out < 2:
        raise DataError(
            f"Expected at least 2 images to train on and 2 to hold out under {root}; "
            f"got {train} and {held_out}. Add images."
        )
