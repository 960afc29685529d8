"""What the names of files and folders say: images, splits, what is hidden; imports no torch."""

from collections.abc import Collection
from pathlib import PurePosixPath

from genmetrics.images.pictures import EXTENSIONS

__all__ = ["SPLITS", "UNREAD", "held_out_folder", "is_hidden", "is_image"]

UNREAD = frozenset(
    {
        *(".gif", ".jfif", ".jpe", ".jp2", ".j2k", ".jxl", ".heic", ".heif", ".avif", ".svg"),
        *(".tga", ".pgm", ".pbm", ".pnm", ".pfm", ".exr", ".hdr", ".psd", ".dcm"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
    }
)
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_HELD_OUT = ("val", "valid", "validation")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's, as notebooks and macOS leave behind."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Whether a file is an image by its name or path; none is in a hidden folder."""
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not any(map(is_hidden, path.parts))


def held_out_folder(folders: Collection[str]) -> str:
    """Return which folder of a root is held out, or nothing.

    Example:
        >>> held_out_folder(["train", "valid"]), held_out_folder(["cat", "valid"])
        ('valid', '')
    """
    names = _HELD_OUT if "train" in folders else _HELD_OUT[:1]
    return next((name for name in names if name in folders), "")
