"""``mimflow-data``: writes image folders from what installed packages carry."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mimflow_train.cli.command import parse, run
from mimflow_train.data.glyphs import ATTRIBUTION, CLASS_NAMES, draw, split_glyphs
from mimflow_train.errors import ConfigError

PROGRAM = "mimflow-data"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Write an image folder that `mimflow-train --data` reads.

    emoji: Twemoji on white in 12 classes, OUT/train/CLASS and OUT/val/CLASS split by base glyph,
    with its ATTRIBUTION.txt.
    """

    source: Annotated[Literal["emoji"], tyro.conf.Positional]
    """Where the images come from."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist yet."""
    size: int = 64
    """Side of the images in pixels; the drawings have 72."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(DataOptions, arguments, PROGRAM)
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: DataOptions) -> int:
    if options.size < 8:
        raise ConfigError(f"Expected --size >= 8; got {options.size}. The drawings have 72.")
    if options.out.exists():
        raise ConfigError(
            f"Expected a new folder; {options.out} exists. Remove it or name another."
        )

    counts = []
    for name, glyphs in zip(("train", "val"), split_glyphs(), strict=True):
        for glyph in glyphs:
            folder = options.out / name / CLASS_NAMES[glyph.label]
            folder.mkdir(parents=True, exist_ok=True)
            draw(glyph, options.size).save(folder / f"{glyph.name}.png")
        counts.append(f"{len(glyphs)} {name}")
    (options.out / "ATTRIBUTION.txt").write_text(ATTRIBUTION)
    sys.stdout.write(f"{' and '.join(counts)} images in {options.out}\n")
    return 0
