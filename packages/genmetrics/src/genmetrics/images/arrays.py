"""Images in an array of an ``.npz`` file, read from any thread. Imports no torch."""

import hashlib
import io
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from genmetrics.errors import BadInput
from genmetrics.images.contents import Contents, content_remarks
from genmetrics.images.float_images import FloatImages, FloatRange
from genmetrics.images.zip_members import Checksum, open_npz, seek_to_content

_LONGEST_HEADER = 2**16  # of an array

STATISTICS_NOT_USED = "they are not used, so this is not the score of ADM's protocol"
FEATURES_NOT_READ = (
    "Pass the images that they are of, or arrays of two such files to "
    "frechet_distance_from_features in Python; `genmetrics probe` and `umap` read these files."
)


class ImageArray:
    """The rows of an image array.

    Args:
        path: The file it is from.
        images: Bytes, channels last; may be a memory map, or floats read as bytes.
        indices: Which rows, in order.
        digest: What identifies the whole array's content.
        labels: Class of each row of the whole array, or None.
        notes: Remarks on the file.
    """

    kind = "npz"

    def __init__(
        self,
        path: Path,
        images: UInt8[np.ndarray, "n h w 3"] | FloatImages,
        indices: Sequence[int],
        *,
        digest: str,
        labels: Int64[np.ndarray, " n"] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.images = images
        self.indices = indices
        self.notes = notes
        self.contents: Contents | None = None
        self.class_names: dict[int, str] = {}  # by label, where they are known
        self.labels = None if labels is None else labels[np.asarray(indices, np.int64)]
        self.checksum: Checksum | None = None  # where the images are a memory map
        self._digest = digest
        self._all_labels = labels

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image.

        Raises:
            BadInput: If it is of floats that are not in their range, or the file is damaged.
        """
        if self.checksum is not None:
            self.checksum.require_whole()
        return np.asarray(self.images[self.indices[index]])

    def select(self, indices: Sequence[int]) -> "ImageArray":
        """Return the images at these places only, in this order."""
        chosen = ImageArray(
            self.path,
            self.images,
            [self.indices[index] for index in indices],
            digest=self._digest,
            labels=self._all_labels,
            notes=self.notes,
        )
        chosen.class_names, chosen.checksum = self.class_names, self.checksum
        return chosen

    def fingerprint(self) -> str:
        """Return a digest of the archive's CRC-32 and size of the array, and of the rows chosen."""
        rows = np.asarray(self.indices, "<i8").tobytes()
        return hashlib.sha256(self._digest.encode() + rows).hexdigest()

    def remarks(self) -> list[str]:
        """Repeat what was noticed when the file was opened, and say what is plain or repeated."""
        names = [str(row) for row in self.indices]
        return [*self.notes, *content_remarks(self.contents, names, self.path)]


def open_image_array(path: Path, *, float_range: FloatRange | None = None) -> ImageArray:
    """Open ``arr_0`` of an ``.npz``, ``arr_1`` as labels and ``classes`` as their names.

    Args:
        path: The file.
        float_range: Values of black and white in an array of floats.

    Raises:
        BadInput: If there is no array of images; lists what there is.
    """
    with open_npz(path) as archive:
        keys = archive.files
        if "arr_0" not in keys:
            raise _no_images(path, archive)
        assert archive.zip is not None  # until the end of the block
        member = archive.zip.getinfo("arr_0.npy")
        mapped = _map_stored(path, member)
        images = archive["arr_0"] if mapped is None else mapped
        other = archive["arr_1"] if "arr_1" in keys else None
        names = archive["classes"] if "classes" in keys else np.empty(0)
    images = channels_last(images)
    _require_images(path, images, float_range)
    labels, notes = None, []
    if other is not None and other.shape == (len(images),) and other.dtype.kind in "iu":
        labels = other.astype(np.int64)
    elif other is not None:
        notes.append(
            f"arr_1 of {path} is {other.dtype} {other.shape} and not a whole number per image; "
            "it was not read as labels."
        )
    if "mu" in keys:
        notes.append(
            f"{path} also has the statistics mu and sigma, of more images than its {len(images)} "
            f"in arr_0; {STATISTICS_NOT_USED}."
        )
    digest = f"{member.CRC:08x} {member.file_size}"
    pixels: np.ndarray | FloatImages = images
    if images.dtype.kind == "f" and float_range is not None:
        digest += f" {float_range[0]!r} {float_range[1]!r}"
        pixels = FloatImages(path, images, float_range)
        notes += pixels.remarks()
    array = ImageArray(path, pixels, range(len(images)), digest=digest, labels=labels, notes=notes)
    if isinstance(images, np.memmap):
        array.checksum = Checksum(path, member)
    if labels is not None and names.ndim == 1 and names.dtype.kind == "U":
        array.class_names = {label: name for label, name in enumerate(names.tolist()) if name}
    return array


def _no_images(path: Path, archive: Any) -> BadInput:
    if {"genmetrics", "mu"} & set(archive.files):
        return BadInput(
            f"Expected images in {path}; got statistics. Pass the images that they are of; two "
            "files of statistics are compared by `genmetrics fid`."
        )
    if is_of_features(archive.files):
        return BadInput(f"Expected images; got features in {path}. {FEATURES_NOT_READ}")
    return BadInput(
        f"Expected the key arr_0 in {path}; got {_listing(archive.zip)}. "
        "Save images with np.savez(path, images)."
    )


def is_of_features(keys: Collection[str]) -> bool:
    """Say whether a file with arrays of these names was written by ``genmetrics features``."""
    return {"ids", "meta"} <= set(keys)


def _listing(archive: zipfile.ZipFile) -> str:
    """Return name, dtype and shape of every array, from the headers alone."""
    found = []
    for member in archive.infolist():
        with archive.open(member) as file:
            shape, _, dtype = _npy_header(io.BytesIO(file.read(_LONGEST_HEADER)))
        found.append(f"{member.filename.removesuffix('.npy')} {dtype} {shape}")
    return ", ".join(found) or "no keys"


def channels_last(images: np.ndarray) -> np.ndarray:
    """Return images with channels last if they are first and the width is not 3."""
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        return images.transpose(0, 2, 3, 1)
    return images


def _three_channels(shape: tuple[int, ...]) -> str:
    """Say how an array of another shape becomes one of three channels, the last axis."""
    if len(shape) == 3 and shape[2] == 3:
        return "Give one image an axis of its number: images[None]."
    if len(shape) == 3:
        return "Give gray images three equal channels: np.stack([images] * 3, axis=-1)."
    if len(shape) == 4 and shape[3] == 1:
        return "Give gray images three equal channels: images.repeat(3, axis=3)."
    if len(shape) == 4 and shape[1] == 1:
        return "Give gray images three equal channels: images.repeat(3, axis=1)."
    if len(shape) == 4 and shape[3] == 4:
        return "Leave out the fourth channel: images[..., :3]."
    return "Save channels last: images.transpose(0, 2, 3, 1) of (n, 3, h, w)."


def _require_images(path: Path, images: np.ndarray, float_range: FloatRange | None) -> None:
    wanted = f"Expected arr_0 of dtype uint8 and shape (n, h, w, 3) in {path}; got"
    found = f"{images.dtype} {images.shape}"
    if images.ndim != 4 or images.shape[3] != 3:
        raise BadInput(f"{wanted} {found}. {_three_channels(images.shape)}")
    if images.dtype.kind == "f" and float_range is None:
        raise BadInput(
            f"{wanted} {found}. Say which values are black and white: --float-range 0,1 or "
            "--float-range -1,1 (float_range in Python)."
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise BadInput(
            f"{wanted} {found}. Save images.astype(np.uint8), black being 0 and white 255."
        )
    if len(images) == 0:
        raise BadInput(f"Expected images in {path}; got an arr_0 of length 0.")


def _map_stored(path: Path, member: zipfile.ZipInfo) -> np.ndarray | None:
    """Map an array in place, or return None if it is compressed."""
    mapped: np.ndarray
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        seek_to_content(file, member)
        shape, fortran, dtype = _npy_header(file)
        if dtype.hasobject or 0 in shape or shape == ():
            return None
        offset = file.tell()
    mapped = np.memmap(
        path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C"
    )
    return mapped


def _npy_header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the order is Fortran's, and dtype; leaves the file at the content."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
