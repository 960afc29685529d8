"""A smoke test of every experiment: the same path with tiny networks, few steps, few images."""

from collections import Counter
from pathlib import Path

from mimflow_train.data.glyphs import CLASS_NAMES, Glyph, draw, split_glyphs
from mimflow_train.storage.lock import locked_in_turn

__all__ = ["QUICK_SETTINGS", "quick_images"]

QUICK_SETTINGS = (
    "steps=4",
    "global_batch=8",
    "optim.warmup_steps=0",
    "decoder_phase.steps=2",
    "decoder_phase.optim.warmup_steps=0",
    "decoder_phase.discriminator.width=16",
    "model.encoder.width=24",
    "model.encoder.depth=1",
    "model.decoder.width=24",
    "model.decoder.depth=1",
    "model.encoder.latent_dim=4",
    "model.decoder.latent_dim=4",
    "model.features.efflite0.latent_dim=4",
    "model.features.efflite0.hidden_width=16",
    "model.features.efflite0.width=24",
    "model.features.efflite0.depth=1",
    "model.flow.token_dim=4",
    "model.flow.width=32",
    "model.flow.head_dim=32",
    "model.flow.depths=(1,1)",
    "precision=fp32",
)
_CLASSES = range(0, len(CLASS_NAMES), 2)
_OF_EACH_CLASS = {"train": 6, "val": 1}


def quick_images(root: Path, size: int) -> Path:
    """Write a few emoji of every other class as a folder to train on, unless it is there.

    Args:
        root: The folder.
        size: Side of the images in pixels.
    """
    with locked_in_turn(root.parent):
        for part, glyphs in zip(_OF_EACH_CLASS, split_glyphs(), strict=True):
            for glyph in _first(glyphs, _OF_EACH_CLASS[part]):
                path = root / part / CLASS_NAMES[glyph.label] / f"{glyph.name}.png"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    draw(glyph, size).save(path)
    return root


def _first(glyphs: list[Glyph], count: int) -> list[Glyph]:
    seen: Counter[int] = Counter()
    chosen = []
    for glyph in glyphs:
        if glyph.label in _CLASSES and seen[glyph.label] < count:
            seen[glyph.label] += 1
            chosen.append(glyph)
    return chosen
