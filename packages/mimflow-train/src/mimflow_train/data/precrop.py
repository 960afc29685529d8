"""Writes a smaller copy of a data set, cropped once for all; imports no torch."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from genmetrics.images.adm_crop import adm_crop_picture
from mimflow_train.data.copy_record import begin_copy, finish_copy
from mimflow_train.data.decoding import UNDECODABLE, load_rgb, reason
from mimflow_train.data.files import FolderLayout, ImageFiles
from mimflow_train.errors import DataError
from mimflow_train.storage.files import renamed_whole
from mimflow_train.storage.lock import locked

__all__ = ["CropOptions", "Cropped", "crop_copy"]

_SKIPPED = "skipped.txt"
_AT_ONCE = 256  # images that a process is given
_SUFFIXES = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """How images are cropped and stored.

    Attributes:
        size: Side in pixels.
        encoding: ``png`` and ``webp`` lose nothing.
        quality: JPEG's, 1 to 100; colours keep their full resolution.
    """

    size: int
    encoding: Literal["jpeg", "png", "webp"]
    quality: int


@dataclass(frozen=True)
class Cropped:
    """What a copy took.

    Attributes:
        written: Images written now.
        present: Images that were there.
        enlarged: How many of those written were smaller than the copy's.
        skipped: What could not be decoded and why, a line for each.
    """

    written: int
    present: int
    enlarged: int
    skipped: tuple[str, ...]


def crop_copy(
    layout: FolderLayout,
    out: Path,
    options: CropOptions,
    *,
    processes: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> Cropped:
    """Write ``OUT/train/CLASS`` and ``OUT/val/CLASS``, leaving alone what is there.

    Images without class folders come into ``OUT/train`` and ``OUT/val`` themselves.

    A file is renamed into place when it is whole, so a copy that was stopped goes on; until then
    ``read_layout`` refuses it. Files keep their names; those of another format get a second ending.

    Args:
        layout: The images.
        out: The folder, new or of an earlier call with the same options.
        options: How they are cropped and stored.
        processes: Processes that share the work.
        progress: Receives the number of images done since it was last called.

    Raises:
        ConfigError: If the folder holds something else, or another process writes to it.
        DataError: If one of the processes is killed.
    """
    record = {"source": layout.fingerprint, **asdict(options)}
    begin_copy(out, layout.train.root, record)
    with locked(out):
        cropped = _crop_all(layout, out, options, processes, progress)
        os.sync()  # or a power cut could leave images empty that the record calls whole
        finish_copy(out)
        (out / ".lock").unlink()
    return cropped


def _crop_all(
    layout: FolderLayout,
    out: Path,
    options: CropOptions,
    processes: int,
    progress: Callable[[int], object],
) -> Cropped:
    tally: Counter[str] = Counter()
    skipped: list[str] = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(processes, context, _end_with_parent)
    try:
        for files, split in ((layout.train, "train"), (layout.held_out, "val")):
            parts = [files.part(slice(i, i + _AT_ONCE)) for i in range(0, len(files), _AT_ONCE)]
            copy = partial(_copy, out / split, layout.class_names, options)
            for part in pool.map(copy, parts):
                counts = {"present": part.present, "enlarged": part.enlarged}
                tally.update(written=part.written, **counts)
                skipped += part.skipped
                progress(part.written + part.present + len(part.skipped))
    except BrokenProcessPool as error:
        raise DataError(
            "Expected the processes that crop images to live; one was killed, as happens where "
            "memory is short. Lower --processes; the same command goes on from here."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    if skipped:
        text = "".join(f"{line}\n" for line in skipped)
        (out / _SKIPPED).write_text(text, encoding="utf-8", errors="surrogateescape")
    return Cropped(tally["written"], tally["present"], tally["enlarged"], tuple(skipped))


def _end_with_parent() -> None:
    """End this process, in whatever it is, when the one that it works for has ended or Ctrl-C has.

    The end of a pool's processes is up to the process that made it, which may be killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # in silence: a traceback would say nothing
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _copy(
    out: Path, class_names: tuple[str, ...], options: CropOptions, files: ImageFiles
) -> Cropped:
    """Copy some of the files into a folder of classes."""
    written = present = enlarged = 0
    skipped = []
    for index in range(len(files)):
        path = _target(out, class_names[files.labels[index]], files.name(index), options.encoding)
        if path.exists():
            present += 1
            continue
        try:
            picture = load_rgb(BytesIO(files.read(index)))
            image = adm_crop_picture(picture, options.size)
        except UNDECODABLE as error:
            skipped.append(f"{files.place(index)}: {reason(error)}")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(image, path, options)
        written += 1
        enlarged += min(picture.size) < options.size
    return Cropped(written, present, enlarged, tuple(skipped))


def _target(out: Path, class_name: str, name: str, encoding: str) -> Path:
    if "/" in name and not name.startswith(f"{class_name}/"):
        name = name.partition("/")[2]  # without train/ or val/
    path = out / name
    return path if path.suffix.lower() in _SUFFIXES[encoding] else Path(f"{path}.{encoding}")


def _write(image: Image.Image, path: Path, options: CropOptions) -> None:
    more: dict[str, Any] = {}
    if options.encoding == "jpeg":
        more = {"quality": options.quality, "subsampling": 0}
    elif options.encoding == "webp":
        more = {"lossless": True}
    with renamed_whole(path) as draft:
        image.save(draft, options.encoding, **more)
