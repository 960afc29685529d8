"""Twemoji as a labelled image set: 3,047 drawings to train on, 351 held-out glyphs, 12 classes."""

import torch

from mimflow_train.data.glyphs import ATTRIBUTION, CLASS_NAMES, Glyph, draw, split_glyphs
from mimflow_train.data.images import LabelledImages, MemoryImages, Split, as_tensor

__all__ = ["emoji_images"]


def emoji_images(size: int) -> LabelledImages:
    """Return the emoji at ``size`` pixels on white; skin tones only in the training split."""
    train, held_out = split_glyphs()
    return LabelledImages(_split(train, size), _split(held_out, size), CLASS_NAMES, ATTRIBUTION)


def _split(glyphs: list[Glyph], size: int) -> Split:
    pixels = torch.stack([as_tensor(draw(glyph, size)) for glyph in glyphs])
    labels = torch.tensor([glyph.label for glyph in glyphs])
    return Split(MemoryImages(pixels), labels)
