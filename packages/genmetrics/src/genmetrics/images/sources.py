"""Images to judge: a folder or zip of pictures, or an array in an ``.npz``. Imports no torch."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, get_args, runtime_checkable
from zipfile import ZipInfo

import numpy as np
from jaxtyping import Int64, UInt8

from genmetrics.errors import BadInput, one_of
from genmetrics.images.arrays import ImageArray, open_image_array
from genmetrics.images.contents import Contents
from genmetrics.images.float_images import FloatRange, check_float_range
from genmetrics.images.held import held_images, is_held
from genmetrics.images.picture_sets import PictureSet, member_name
from genmetrics.images.pictures import EXTENSIONS, sizes_in_words
from genmetrics.images.zip_members import list_members

__all__ = [
    "EXTENSIONS",
    "ImageArray",
    "ImageSource",
    "PictureSet",
    "as_images",
    "class_names",
    "open_images",
    "read_ahead",
]

OnBadImage = Literal["error", "skip"]
_READERS = 4
_PACKED = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order.

    Attributes:
        path: Where they come from.
        kind: ``folder``, ``zip``, ``npz`` or ``memory``.
        labels: Class of each image, int64, or None where nothing says so.
        contents: Digests of all images, set by ``extract`` once it has read them; ``remarks`` tells
            copies by them.
    """

    path: Path
    kind: str
    labels: np.ndarray | None
    contents: Contents | None

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image; safe to call from several threads."""

    def select(self, indices: Sequence[int]) -> "ImageSource":
        """Return the images at these places only, in this order."""

    def fingerprint(self) -> str:
        """Return a digest that changes with the images, their number or order; decodes none."""

    def remarks(self) -> list[str]:
        """Return sentences on what the reader should know about the images read so far."""


def open_images(
    path: str | Path,
    *,
    recursive: bool = False,
    on_bad_image: OnBadImage = "error",
    float_range: FloatRange | None = None,
    allow_16bit: bool = False,
    strict_size: bool = False,
) -> ImageSource:
    """Open the images of a folder, a ``.zip`` or an ``.npz`` file; none is decoded yet.

    A folder is read with its sub-folders, one level deep (one per class, say); the remarks say how
    many pictures lie deeper. Files are in natural order of their path: ``2.png`` before ``10.png``,
    letter case ignored. Names that begin with a dot are passed over. If every image is in one of
    several sub-folders, its label is the number of its sub-folder in that order. A zip of images is
    read by the same rules.

    An ``.npz`` holds ``arr_0``, uint8 or floats, ``(n, h, w, 3)``, or ``(n, 3, h, w)`` if the width
    is not 3, and may hold labels in ``arr_1`` and the names of classes 0, 1, ... in ``classes``;
    saved uncompressed (``np.savez``) it is mapped and not loaded.

    Args:
        path: The folder or file.
        recursive: Whether to read sub-folders at any depth.
        on_bad_image: ``skip`` leaves out pictures that cannot be read as 8 bits, and names them in
            the remarks. To know them before ``n`` is used, each picture is decoded once here,
            which takes as long as reading the set.
        float_range: Values of black and white in an array of floats, ``(0.0, 1.0)`` or
            ``(-1.0, 1.0)``, refused without; each is rounded to the nearest of 256 levels.
        allow_16bit: Whether to keep the upper 8 bits of pictures that have 16, which are refused
            otherwise.
        strict_size: Whether to refuse pictures of several sizes, which reads all headers here.

    Raises:
        BadInput: If there is nothing at the path, no image in it, no such array, or another size.
        UsageError: If on_bad_image is neither, or the float range not two finite numbers in order.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("10.png", "2.PNG", "notes.txt"):
        ...         Image.new("RGB", (4, 3)).save(Path(folder, name), format="png")
        ...     source = open_images(folder)
        ...     source.names, source.read(0).shape
        (['2.PNG', '10.png'], (3, 4, 3))
    """
    path = Path(path)
    one_of(get_args(OnBadImage), on_bad_image=on_bad_image)
    if float_range is not None:
        float_range = check_float_range(*float_range)
    if path.is_dir():
        source = _open_folder(path, recursive=recursive)
    elif not path.exists():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        raise BadInput(
            f"Expected a folder of images, a .zip or an .npz file; got {path}, which does not "
            f"exist ({parent} does). Check the path."
        )
    elif path.suffix.lower() == ".npz":
        return open_image_array(path, float_range=float_range)
    elif path.suffix.lower() == ".zip":
        source = _open_zip(path, recursive=recursive)
    else:
        raise BadInput(
            f"Expected a folder of images, a .zip or an .npz file; got the file {path}. "
            f"{_advice(path)}"
        )
    source.allow_16bit = allow_16bit
    if on_bad_image == "skip":
        source = _skip_unreadable(source)
    if strict_size:
        _require_one_size(source)
    return source


def as_images(images: object) -> ImageSource:
    """Return images, opened if a path stands for them; arrays and tensors of bytes are images too.

    Raises:
        BadInput: If they are none of these, or cannot be opened.
    """
    if is_held(images):
        return held_images(images)
    if isinstance(images, str | Path):
        return open_images(images)
    if not isinstance(images, ImageSource):
        raise BadInput(
            f"Expected a path of images, or open_images(path); got a {type(images).__name__}. "
            "Write images to a file with write_npz, or pass one uint8 tensor (n, 3, h, w)."
        )
    return images


def class_names(source: ImageSource) -> dict[int, str]:
    """Return what each label is called, by its folder or the ``.npz``; empty if nothing says so."""
    if source.labels is None or not isinstance(source, PictureSet):
        return getattr(source, "class_names", {})
    folders = (PurePosixPath(name).parent.as_posix() for name in source.names)
    return dict(sorted(zip(source.labels.tolist(), folders, strict=True)))


def _advice(file: Path) -> str:
    """Say what to do with a file that is no set of images."""
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS:
        return "Pass its folder."
    if suffix == ".npy":
        return f"Save its array as an .npz: np.savez('{file.stem}.npz', np.load('{file.name}'))."
    if suffix in _PACKED:
        return "Unpack it and pass the folder."
    return "Pass the images."


def read_ahead(source: ImageSource) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield all images in order; threads decode a few ahead, and no more are held.

    Raises:
        BadInput: If an image cannot be read.
    """
    ahead = 8 * _READERS
    with ThreadPoolExecutor(_READERS) as readers:
        waiting = [readers.submit(source.read, i) for i in range(min(ahead, len(source)))]
        try:
            for index in range(len(source)):
                yield waiting.pop(0).result()
                if index + ahead < len(source):
                    waiting.append(readers.submit(source.read, index + ahead))
        finally:
            readers.shutdown(cancel_futures=True)


def _open_folder(folder: Path, *, recursive: bool) -> PictureSet:
    levels = _levels(folder)
    try:
        files = [file for level in (levels if recursive else islice(levels, 2)) for file in level]
    except OSError as error:
        raise BadInput(
            f"Expected a readable folder; got {error}. Check its permissions."
        ) from error
    names = {file.relative_to(folder).as_posix(): file for file in files}
    num_deeper = 0
    with suppress(OSError):  # what is not read need not be readable
        for level in levels:
            num_deeper += sum(_is_picture(file.name) for file in level)
    return _picture_set(folder, names, num_deeper)


def _open_zip(path: Path, *, recursive: bool) -> PictureSet:
    members = {member_name(member): member for member in list_members(path) if not member.is_dir()}
    names = [name for name in members if not any(part.startswith(".") for part in name.split("/"))]
    deeper = [] if recursive else [name for name in names if name.count("/") > 1]
    near = {name: members[name] for name in set(names) - set(deeper)}
    return _picture_set(path, near, sum(map(_is_picture, deeper)))


def _levels(folder: Path) -> Iterator[list[Path]]:
    """Yield the files of a folder, then those of its sub-folders, and so on until there are none.

    Links to folders are followed, but no link back to a folder above.
    """
    folders = [(folder, frozenset[Path]())]
    while folders:
        files, below = [], []
        for parent, above in folders:
            seen = above | {parent.resolve()}
            for entry in parent.iterdir():
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    files.append(entry)
                elif entry.is_dir() and entry.resolve() not in seen:
                    below.append((entry, seen))
        yield files
        folders = below


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def _picture_set(place: Path, entries: Mapping[str, Path | ZipInfo], deeper: int) -> PictureSet:
    """Return the pictures among files or members, which are by name, in natural order.

    Raises:
        BadInput: If there are none; says what there is.
    """
    names = sorted(filter(_is_picture, entries), key=_natural_key)
    if names:
        source = PictureSet(place, [entries[name] for name in names], _labels_of(names))
        source.num_deeper = deeper
        return source
    suffixes = (PurePosixPath(name).suffix.lower() or "without extension" for name in entries)
    others = Counter(sorted(suffixes))
    found = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3)) or "no files"
    advice = "Check the path, or save images as PNG."
    if deeper:
        advice = f"Images that lie deeper: {deeper}. Read them with --recursive, recursive=True."
    raise BadInput(f"Expected images ({' '.join(EXTENSIONS)}) in {place}; got {found}. {advice}")


def _natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return a key by which ``a/2.png`` comes before ``a/10.png``."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name.casefold())
    return [(text, int(digits or -1)) for text, digits in parts], name


def _labels_of(names: Sequence[str]) -> Int64[np.ndarray, " n"] | None:
    """Return the number of each name's folder, if they are all in one of several folders."""
    folders = [PurePosixPath(name).parent.as_posix() for name in names]
    classes = sorted(set(folders), key=_natural_key)
    if len(classes) < 2 or any("/" in folder or folder == "." for folder in classes):
        return None
    number = {folder: index for index, folder in enumerate(classes)}
    return np.array([number[folder] for folder in folders], np.int64)


def _skip_unreadable(source: PictureSet) -> PictureSet:
    def readable(index: int) -> bool:
        try:
            source.read(index)
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(_READERS) as readers:
        good = list(readers.map(readable, range(len(source))))
    if not any(good):
        raise BadInput(
            f"Expected an image that can be read in {source.path}; got {len(source)} that cannot, "
            f"{source.names[0]} among them. Write them again."
        )
    kept = source.select([index for index, is_good in enumerate(good) if is_good])
    kept.skipped = [name for name, is_good in zip(source.names, good, strict=True) if not is_good]
    return kept


def _require_one_size(source: PictureSet) -> None:
    with ThreadPoolExecutor(_READERS) as readers:
        sizes = list(readers.map(source.size, range(len(source))))
    if len(set(sizes)) > 1:
        other = next(index for index, size in enumerate(sizes) if size != sizes[0])
        raise BadInput(
            f"Expected images of one size in {source.path}; got {sizes_in_words(sizes)}, such as "
            f"{source.names[0]} and {source.names[other]}. Crop them with `genmetrics prepare`, or "
            "leave out --strict-size."
        )
