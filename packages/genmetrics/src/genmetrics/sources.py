"""Images to judge: a folder of pictures, or ``arr_0`` of an ``.npz`` file. Imports no torch."""

import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from genmetrics.errors import BadInput

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order.

    Attributes:
        path: Where they come from.
        kind: ``folder`` or ``npz``.
    """

    path: Path
    kind: str

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image; safe to call from several threads."""

    def select(self, indices: Sequence[int]) -> "ImageSource":
        """Return the images at these places only, in this order."""

    def remarks(self) -> list[str]:
        """Return sentences on what the reader should know about the images read so far."""


class ImageFolder:
    """The picture files of a folder, as 8-bit RGB. Transparency is dropped and remarked upon.

    Args:
        path: The folder.
        files: Pictures in it, in order.
    """

    kind = "folder"

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path = path
        self.files = files
        self._transparent: set[Path] = set()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image.

        Raises:
            BadInput: If the file cannot be decoded or has more than 8 bits; names the file.
        """
        file = self.files[index]
        try:
            with Image.open(file) as image:
                if image.mode in _WIDE_MODES:
                    raise BadInput(
                        f"Expected 8 bits per channel; got mode {image.mode} in {file}. "
                        "Convert it to 8 bits."
                    )
                if not image.has_transparency_data:
                    return np.array(image.convert("RGB"))
                self._transparent.add(file)
                # By way of RGBA, since a palette with transparency warns otherwise.
                return np.array(image.convert("RGBA").convert("RGB"))
        except BadInput:
            raise
        except Exception as error:  # decoders raise anything from SyntaxError to struct.error
            raise BadInput(
                f"Expected an image in {file}; got {type(error).__name__}: {error}. "
                "Repair or remove the file."
            ) from error

    def select(self, indices: Sequence[int]) -> "ImageFolder":
        """Return the images at these places only, in this order."""
        return ImageFolder(self.path, [self.files[index] for index in indices])

    def remarks(self) -> list[str]:
        """Say how many images lost their transparency."""
        if not self._transparent:
            return []
        return [
            f"{len(self._transparent)} of {len(self)} images in {self.path} have transparency, "
            "which was dropped; flatten them on a background to choose what shows."
        ]


class ImageArray:
    """The rows of an image array.

    Args:
        path: The file it is from.
        images: Bytes, channels last; may be a memory map.
        indices: Which rows, in order.
        notes: Remarks on the file.
    """

    kind = "npz"

    def __init__(
        self,
        path: Path,
        images: UInt8[np.ndarray, "n h w 3"],
        indices: Sequence[int],
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.images = images
        self.indices = indices
        self.notes = notes

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image."""
        return np.asarray(self.images[self.indices[index]])

    def select(self, indices: Sequence[int]) -> "ImageArray":
        """Return the images at these places only, in this order."""
        chosen = [self.indices[index] for index in indices]
        return ImageArray(self.path, self.images, chosen, self.notes)

    def remarks(self) -> list[str]:
        """Repeat what was noticed when the file was opened."""
        return list(self.notes)


def open_images(path: str | Path, *, recursive: bool = False) -> ImageSource:
    """Open the images of a folder or an ``.npz`` file; none is decoded yet.

    A folder is read with its sub-folders, one level deep (one per class, say). Files are in
    natural order of their path: ``2.png`` before ``10.png``, letter case ignored. Names that begin
    with a dot are passed over. An ``.npz`` holds ``arr_0``, uint8, ``(n, h, w, 3)``; saved
    uncompressed (``np.savez``) it is mapped and not loaded.

    Args:
        path: The folder or file.
        recursive: Whether to read sub-folders at any depth.

    Raises:
        BadInput: If there is nothing at the path, no image in it, or no such array.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("10.png", "2.PNG", "notes.txt"):
        ...         Image.new("RGB", (4, 3)).save(Path(folder, name), format="png")
        ...     source = open_images(folder)
        ...     [file.name for file in source.files], source.read(0).shape
        (['2.PNG', '10.png'], (3, 4, 3))
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path, _find_images(path, recursive=recursive))
    if not path.exists():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        raise BadInput(
            f"Expected a folder of images or an .npz file; got {path}, which does not exist "
            f"({parent} does). Check the path."
        )
    if path.suffix.lower() == ".npz":
        return _open_npz(path)
    raise BadInput(
        f"Expected a folder of images or an .npz file; got the file {path}. Pass its folder."
    )


def _find_images(folder: Path, *, recursive: bool) -> list[Path]:
    try:
        files = _files_below(folder, depth=None if recursive else 1)
    except OSError as error:
        raise BadInput(
            f"Expected a readable folder; got {error}. Check its permissions."
        ) from error
    images = [file for file in files if file.suffix.lower() in EXTENSIONS]
    if images:
        return sorted(images, key=lambda file: _natural_key(file.relative_to(folder)))
    others = Counter(sorted(file.suffix.lower() or "without extension" for file in files))
    found = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3)) or "no files"
    hint = "" if recursive else " Folders inside its sub-folders are read with --recursive."
    raise BadInput(f"Expected images ({' '.join(EXTENSIONS)}) in {folder}; got {found}.{hint}")


def _files_below(
    folder: Path, depth: int | None, seen: frozenset[Path] = frozenset()
) -> list[Path]:
    """List files, following links to folders but no link back to a folder above."""
    seen |= {folder.resolve()}
    files = []
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            files.append(entry)
        elif depth != 0 and entry.is_dir() and entry.resolve() not in seen:
            files += _files_below(entry, None if depth is None else depth - 1, seen)
    return files


def _natural_key(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Return a key by which ``a/2.png`` comes before ``a/10.png``."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", path.as_posix().casefold())
    return [(text, int(digits or -1)) for text, digits in parts], path.as_posix()


def _open_npz(path: Path) -> ImageArray:
    try:
        # Opened here, since np.load leaves the file of a torn archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = archive.files
            if "arr_0" not in keys:
                raise BadInput(
                    f"Expected the key arr_0 in {path}; got {', '.join(keys) or 'no keys'}. "
                    "Save images with np.savez(path, images)."
                )
            images = _map_stored(path)
            if images is None:
                images = archive["arr_0"]
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"Expected an .npz file of arrays in {path}; got {error}.") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise BadInput(
            f"Expected arr_0 of dtype uint8 and shape (n, h, w, 3) in {path}; "
            f"got {images.dtype} {images.shape}. Save bytes, channels last."
        )
    if len(images) == 0:
        raise BadInput(f"Expected images in {path}; got an arr_0 of length 0.")
    notes = []
    if "mu" in keys:
        notes.append(
            f"{path} also has the statistics mu and sigma, of more images than its {len(images)} "
            "in arr_0; they are not used, so this is not the score of ADM's protocol."
        )
    return ImageArray(path, images, range(len(images)), notes)


def _map_stored(path: Path) -> np.ndarray | None:
    """Map ``arr_0`` in place, or return None if it is compressed."""
    mapped: np.ndarray
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo("arr_0.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(member.header_offset + 26)  # lengths of name and extra field, local header
        file.seek(sum(np.frombuffer(file.read(4), "<u2").tolist()), 1)
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.hasobject or 0 in shape or shape == ():
            return None
        offset = file.tell()
    mapped = np.memmap(
        path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C"
    )
    return mapped
