"""Writing sets of images: one ``.npz`` array, or a folder of squares. Imports no torch."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from genmetrics.errors import BadInput, UsageError
from genmetrics.images.adm_crop import adm_center_crop
from genmetrics.images.held import as_array, is_held, is_tensor
from genmetrics.images.sources import ImageSource, PictureSet, class_names, read_ahead
from genmetrics.whole_files import written_whole

_WRITERS = 4
_UNFINISHED = ".unfinished.json"  # what a folder is being filled with


def pack_images(
    source: ImageSource, path: str | Path, progress: Callable[[int], object] | None = None
) -> None:
    """Write images to ``arr_0`` of an ``.npz``, one after the other, and labels to ``arr_1``.

    As :func:`write_npz` does; the names of classes 0, 1, ... go to ``classes``.

    Args:
        source: Images of one size.
        path: The file, ending in ``.npz``.
        progress: Called after each image with 1.

    Raises:
        BadInput: If an image cannot be read or has another size than the first.
        UsageError: If the path has another ending or cannot be written.
    """
    names = class_names(source)
    classes = [names.get(label, "") for label in range(max(names) + 1)] if names else None
    images = _of_one_size(source, progress)
    write_npz(images, path, source.labels, count=len(source), classes=classes)


def write_npz(
    images: Iterable[Any],
    path: str | Path,
    labels: Any = None,
    *,
    count: int | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Write images as ADM's evaluator reads them, while they are made, with room for one.

    The format is that of openai/guided-diffusion:evaluations/evaluator.py.
    The array ``arr_0`` is uint8 ``(n, h, w, 3)``, stored and not compressed, so that it can be
    mapped. A file of that name is replaced once the new one is whole.

    Args:
        images: Arrays of uint8 ``(h, w, 3)``, tensors of uint8 ``(3, h, w)`` or Pillow's images in
            RGB, all of one size; or one array or tensor of all of them.
        path: The file, ending in ``.npz``.
        labels: Class of each, integers ``(n,)``, for ``arr_1``.
        count: How many images there will be; None for ``len(images)``.
        classes: Names of classes 0, 1, ..., for ``classes``.

    Raises:
        BadInput: If there are more or fewer, one has another type or size, or there is not one
            label for each.
        UsageError: If the path has another ending or cannot be written, or nothing says how many
            images there are.
    """
    path = Path(path)
    if is_held(images):
        images = as_array(images)
    count = _length(images) if count is None else count
    if labels is not None:
        labels = np.asarray(labels.cpu() if is_tensor(labels) else labels)
        _require_labels(labels, count)
    if path.suffix.lower() != ".npz":
        raise UsageError(f"Expected a path that ends in .npz; got {path}. Rename it.")
    with written_whole(path) as draft, zipfile.ZipFile(draft, "w", allowZip64=True) as archive:
        _write_array(images, archive, count)
        for name, values in (("arr_1", labels), ("classes", classes)):
            if values is not None:
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(values))


def _length(images: object) -> int:
    if not isinstance(images, Sized):
        raise UsageError(
            f"Expected count, the number of images; got none, and a {type(images).__name__} has no "
            "length. Pass count=."
        )
    return len(images)


def _require_labels(labels: np.ndarray, count: int) -> None:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise BadInput(
            f"Expected {count} whole numbers as labels, one for each image; got {labels.dtype} "
            f"{labels.shape}. Pass the classes of these images."
        )


def _write_array(images: Iterable[Any], archive: zipfile.ZipFile, count: int) -> None:
    written, shape = 0, (0, 0, 3)
    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
        for image in images:
            image = _pixels(image, written)
            if written == 0:
                shape = image.shape
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(file, header)
            if image.dtype != np.uint8 or image.shape != shape or shape[2:] != (3,):
                raise BadInput(
                    f"Expected uint8 images (h, w, 3) of one size; got {image.dtype} {image.shape} "
                    f"as number {written}. Convert it first."
                )
            file.write(image.tobytes())
            written += 1
    if written != count or not written:
        raise BadInput(f"Expected {count or 'some'} images to write; got {written}. Count anew.")


def _pixels(image: Any, index: int) -> np.ndarray:
    """Return one image as an array, whose shape is still to be checked."""
    if is_tensor(image):
        image = as_array(image[None])[0]
    if not isinstance(image, Image.Image) and hasattr(image, "__array__"):  # JAX's, say
        return np.asarray(image)
    got, advice = f"a {type(image).__name__}", "Pass arrays, tensors or Pillow's images."
    if isinstance(image, Image.Image):
        if image.mode == "RGB":
            return np.asarray(image)
        got, advice = f"an image of mode {image.mode}", "Pass image.convert('RGB')."
    raise BadInput(
        f"Expected uint8 images (h, w, 3) of one size; got {got} as number {index}. {advice}"
    )


def _of_one_size(
    source: ImageSource, progress: Callable[[int], object] | None
) -> Iterator[np.ndarray]:
    first: tuple[int, ...] = ()
    for index, image in enumerate(read_ahead(source)):
        first = first or image.shape
        if image.shape != first:
            raise BadInput(
                f"Expected images of one size, {first[1]}x{first[0]}; got {image.shape[1]}x"
                f"{image.shape[0]} for {names_of(source)[index]} in {source.path}. "
                "Crop them with `genmetrics prepare` first."
            )
        yield image
        if progress is not None:
            progress(1)


def prepare_images(
    source: ImageSource,
    folder: str | Path,
    size: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write the ADM crop of each image to a folder, as PNG under its old name.

    Sub-folders are kept. Images of an array are named by their number. A run that was stopped, by a
    bad image say, goes on where it was when it is repeated.

    Args:
        source: The images.
        folder: Where to; new or empty, or of the same run.
        size: Side of the squares, in pixels.
        progress: Called after each image with 1.

    Raises:
        BadInput: If an image cannot be read or two would get one name.
        UsageError: If the folder has files in it or cannot be written.
    """
    folder = Path(folder)
    targets: dict[Path, str] = {}
    for name in names_of(source):
        target = folder / PurePosixPath(name).with_suffix(".png")
        if target in targets:
            raise BadInput(
                f"Expected names that differ without their extension; got {targets[target]} and "
                f"{name} in {source.path}. Rename one."
            )
        targets[target] = name
    files = list(targets)

    def crop(index: int) -> None:
        if files[index].exists():
            return
        pixels = adm_center_crop(source.read(index), size)
        partial = files[index].with_name(f".{files[index].name}.partial")
        Image.fromarray(pixels).save(partial, format="png")
        partial.replace(files[index])

    try:
        unfinished = _begin(folder, source.path, size)
        for parent in {file.parent for file in files}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_WRITERS) as writers:
            for _ in writers.map(crop, range(len(source))):
                if progress is not None:
                    progress(1)
        unfinished.unlink()
    except OSError as error:
        raise UsageError(f"Expected a writable folder; got {error}. Choose another.") from error


def _begin(folder: Path, source: Path, size: int) -> Path:
    """Mark a folder as one that is being filled, and return the mark.

    Raises:
        UsageError: If it has files that another run wrote.
    """
    mark, run = folder / _UNFINISHED, json.dumps({"source": str(source.resolve()), "size": size})
    folder.mkdir(parents=True, exist_ok=True)
    if any(file != mark for file in folder.iterdir()) and not (
        mark.exists() and mark.read_text() == run
    ):
        raise UsageError(
            f"Expected a new or empty folder; got {folder}, which has files. Choose another."
        )
    mark.write_text(run)
    return mark


def names_of(source: ImageSource) -> list[str]:
    """Return the paths of images below their folder or in their zip, or numbers in an array."""
    if isinstance(source, PictureSet):
        return source.names
    return [f"{index:06d}" for index in range(len(source))]
