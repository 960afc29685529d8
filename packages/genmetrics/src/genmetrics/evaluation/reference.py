"""What samples are judged against: real images, their statistics, or both."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genmetrics.evaluation.report import ImageSet
from genmetrics.features.stats import GaussianStats
from genmetrics.features.stats_files import load_all_stats
from genmetrics.images.arrays import STATISTICS_NOT_USED, open_image_array
from genmetrics.images.sources import ImageSource, open_images
from genmetrics.images.zip_members import open_npz

__all__ = ["Reference", "open_reference"]

_STATISTICS = (".npz", ".pt", ".pth")
_STATISTICS_KEYS = {"mu", "mu_s", "genmetrics"}


@dataclass(frozen=True)
class Reference:
    """Real images, their statistics, or both, as in ADM's reference files.

    Attributes:
        path: Where it comes from.
        images: The images; None if only statistics are known.
        statistics: Statistics by output of the network. Frechet distances are taken to these where
            there are some; the images then serve precision, recall and kernel distances.
    """

    path: Path
    images: ImageSource | None = None
    statistics: dict[str, GaussianStats] = field(default_factory=dict)

    @classmethod
    def of(cls, images: ImageSource) -> "Reference":
        """Return images as a reference."""
        return cls(images.path, images)

    @property
    def described(self) -> ImageSet:
        """What a report says of it."""
        formats = {str(each.meta.get("format", "genmetrics")) for each in self.statistics.values()}
        named = ", ".join(sorted(formats)) or None
        if self.images is not None:
            return replace(ImageSet.of(self.images), format=named)
        counts = {each.n for each in self.statistics.values()}
        n = counts.pop() if len(counts) == 1 else None
        return ImageSet(self.path, "statistics", n, _digest(self.statistics), named)


def open_reference(path: str | Path, **reading: Any) -> Reference:
    """Open real images as ``open_images`` does, or a file of statistics, or ADM's file of both.

    Args:
        path: A folder, ``.zip`` or ``.npz`` of images, or a file of ``load_all_stats``.
        **reading: How images are read: recursive, on_bad_image, float_range, allow_16bit and
            strict_size of ``open_images``.

    Raises:
        BadInput: If it is neither.
    """
    path = Path(path)
    if path.suffix.lower() not in _STATISTICS or not path.is_file():
        return Reference.of(open_images(path, **reading))
    keys = _keys(path)
    float_range = reading.get("float_range")
    images = open_image_array(path, float_range=float_range) if "arr_0" in keys else None
    has_statistics = "arr_0" not in keys or bool(keys & _STATISTICS_KEYS)
    statistics = load_all_stats(path) if has_statistics else {}
    if images is not None and statistics:
        images.notes = [each for each in images.notes if STATISTICS_NOT_USED not in each]
    return Reference(path, images, statistics)


def _digest(statistics: Mapping[str, GaussianStats]) -> str:
    """Return the sha256 of names and means."""
    digest = hashlib.sha256()
    for name, stats in sorted(statistics.items()):
        digest.update(name.encode() + stats.mean.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _keys(path: Path) -> set[str]:
    """Return the names of the arrays of an ``.npz``; none for another file."""
    if path.suffix.lower() != ".npz":
        return set()
    with open_npz(path) as archive:
        return set(archive.files)
