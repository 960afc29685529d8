"""Copies and plain colours among the images of a set, found by digests. Imports no torch."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from genmetrics.errors import some

__all__ = ["Contents", "content_remarks", "digest", "is_plain"]

_TOLERATED = 0.01  # of a set
_LISTED = 5


class Contents(NamedTuple):
    """What is known of the pixels of a whole set once they have been read.

    Args:
        digests: Equal for equal images, and for no others but with probability 2^-64.
        plain: True where an image has one colour throughout.
    """

    digests: UInt64[np.ndarray, " n"]
    plain: Bool[np.ndarray, " n"]


def digest(image: UInt8[np.ndarray, "h w 3"]) -> int:
    """Return 64 bits that depend on every pixel and on the size.

    Example:
        >>> wide, tall = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
        >>> digest(wide) == digest(wide.copy()), digest(wide) == digest(tall)
        (True, False)
    """
    key = repr(image.shape).encode()
    content = blake2b(np.ascontiguousarray(image).data, digest_size=8, key=key)
    return int.from_bytes(content.digest(), "little")


def is_plain(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Say whether an image has one colour throughout."""
    # The first row settles nearly every image, at no cost.
    return bool((image[0] == image[0, 0]).all() and (image == image[0, 0]).all())


def content_remarks(contents: Contents | None, names: Sequence[str], path: Path) -> list[str]:
    """Return a sentence each on plain and on repeated images, if they are above 1 % of the set.

    Args:
        contents: Of all images; None if they have not been read.
        names: Name of each image.
        path: Where they are from.
    """
    if contents is None:
        return []
    plain = np.flatnonzero(contents.plain).tolist()
    _, first, place = np.unique(contents.digests, return_index=True, return_inverse=True)
    original = first[place]
    copies = np.flatnonzero(original != np.arange(len(original))).tolist()
    sentences = []
    if len(plain) > _TOLERATED * len(names):
        sentences.append(
            f"{len(plain)} of {len(names)} images in {path} have one colour throughout: "
            f"{some([names[row] for row in plain], _LISTED)}. Check how they were made."
        )
    if len(copies) > _TOLERATED * len(names):
        pairs = [f"{names[row]} = {names[original[row]]}" for row in copies]
        sentences.append(
            f"{len(copies)} of {len(names)} images in {path} are exact copies of others: "
            f"{some(pairs, _LISTED)}. Check the sampler's seeds."
        )
    return sentences
