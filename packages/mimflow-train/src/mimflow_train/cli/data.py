"""``mimflow-data``: writes image folders from what installed packages carry, and cropped copies."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image
from tqdm import tqdm

from mimflow_train.cli.command import parse, run
from mimflow_train.data import glyphs, photos
from mimflow_train.data.layout import read_layout, require_apart
from mimflow_train.data.precrop import CropOptions, crop_copy
from mimflow_train.device.machine import count_cores
from mimflow_train.errors import ConfigError, DataError
from mimflow_train.storage.lock import locked
from mimflow_train.telemetry.console import say

PROGRAM = "mimflow-data"
_LEAST_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """Twemoji on white in 12 classes, split by base glyph, with its ATTRIBUTION.txt."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist yet."""
    size: int = 64
    """Side of the images in pixels; the drawings have 72."""


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Squares of six photographs, a class each; those held out share no pixel with the others."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist yet."""
    size: int = 64
    """Side of the images in pixels."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A smaller copy of a data set, cropped as training would crop it, which is read faster.

    The same command again goes on where it was stopped; training refuses an unfinished copy.
    Where SRC has no held-out images, one in eight is written to OUT/val, the same that training
    would hold out.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder or tar, as for `mimflow-train --data`."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write or to go on with."""
    size: int = 256
    """Side of the images in pixels."""
    format: Literal["jpeg", "png", "webp"] = "jpeg"
    """How they are stored; png and webp lose nothing."""
    quality: int = 95
    """Quality of a JPEG, 1 to 100."""
    processes: int | None = None
    """Processes that share the work; the cores of this machine if not given."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Write a folder that `mimflow-train --data` reads: OUT/train/CLASS and OUT/val/CLASS."""

    source: Annotated[
        Annotated[Emoji, tyro.conf.subcommand("emoji", prefix_name=False)]
        | Annotated[Photos, tyro.conf.subcommand("photos", prefix_name=False)]
        | Annotated[Crop, tyro.conf.subcommand("crop", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(DataOptions, arguments, PROGRAM).source
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: Emoji | Photos | Crop) -> int:
    if options.size < _LEAST_SIZE:
        raise ConfigError(
            f"Expected --size >= {_LEAST_SIZE}; got {options.size}. Nothing smaller is an image."
        )
    if isinstance(options, Crop):
        return _crop(options)
    if isinstance(options, Emoji):
        return _write_new(options.out, _emoji(options.size), glyphs.ATTRIBUTION)
    return _write_new(options.out, _photos(options.size), photos.ATTRIBUTION)


def _emoji(size: int) -> Iterator[tuple[str, str, Image.Image]]:
    for split, drawings in zip(("train", "val"), glyphs.split_glyphs(), strict=True):
        for glyph in drawings:
            name = f"{glyphs.CLASS_NAMES[glyph.label]}/{glyph.name}.png"
            yield split, name, glyphs.draw(glyph, size)


def _photos(size: int) -> Iterator[tuple[str, str, Image.Image]]:
    for number, cut in enumerate(photos.cut_photos(size)):
        yield cut.split, f"{cut.class_name}/{number:05}.png", cut.picture


def _write_new(out: Path, images: Iterator[tuple[str, str, Image.Image]], attribution: str) -> int:
    """Write images, each with its split and its name, to a folder that is there when whole."""
    if out.exists():
        raise ConfigError(f"Expected a new folder; {out} exists. Remove it or name another.")
    partial = out.with_name(f".{out.name}.partial")
    counts: Counter[str] = Counter()
    with locked(partial):
        try:
            for split in ("train", "val"):  # of a command that was killed
                shutil.rmtree(partial / split, ignore_errors=True)
            for split, name, image in images:
                path = partial / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
                counts[split] += 1
            (partial / "ATTRIBUTION.txt").write_text(attribution)
            partial.rename(out)
            (out / ".lock").unlink()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    sys.stdout.write(f"{counts['train']} train and {counts['val']} val images in {out}\n")
    return 0


def _crop(options: Crop) -> int:
    if not 1 <= options.quality <= 100:
        raise ConfigError(f"Expected --quality 1 to 100; got {options.quality}. Try 95.")
    processes = count_cores() if options.processes is None else options.processes
    if processes < 1:
        raise ConfigError(
            f"Expected --processes >= 1; got {processes}. Leave it out for all cores."
        )
    require_apart(options.out, options.source)
    layout = read_layout(options.source.resolve(), say)
    total = len(layout.train) + len(layout.held_out)
    how = CropOptions(size=options.size, encoding=options.format, quality=options.quality)
    with tqdm(total=total, unit="image", file=sys.stderr, disable=None) as bar:
        cropped = crop_copy(layout, options.out, how, processes=processes, progress=bar.update)
    sys.stdout.write(
        f"{len(layout.train)} train and {len(layout.held_out)} val images: {cropped.written} "
        f"written, {cropped.present} already there, {len(cropped.skipped)} unreadable, in "
        f"{options.out}\n"
    )
    if len(cropped.skipped) == total:
        raise DataError(
            f"Expected images that can be read in {options.source}; got none among {total}, the "
            f"first {cropped.skipped[0]}. All of them are in {options.out / 'skipped.txt'}."
        )
    if cropped.enlarged:
        say(
            f"Warning: {cropped.enlarged} of the {cropped.written} images written are smaller "
            f"than {options.size} px, and are enlarged."
        )
    if cropped.skipped:
        sys.stderr.write(
            f"Left out {cropped.skipped[0]}; all of them are in {options.out / 'skipped.txt'}.\n"
        )
    return 0
