"""A score with everything that is needed to compare it with another one."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genmetrics.extractors import Extractor
from genmetrics.floor import EqualCountDistance
from genmetrics.frechet import FrechetResult
from genmetrics.sources import ImageSource

SCHEMA = "genmetrics/1"


class Remark(NamedTuple):
    """Something that the reader of a score must know.

    Args:
        code: A word in capitals that never changes.
        message: A sentence for people.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Which images were read.

    Args:
        path: Folder or file.
        kind: ``folder`` or ``npz``.
        n: How many of its images.
    """

    path: Path
    kind: str
    n: int

    @classmethod
    def of(cls, source: ImageSource) -> "ImageSet":
        """Describe a source."""
        return cls(source.path, source.kind, len(source))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"path": str(self.path), "kind": self.kind, "n": self.n}


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of one set of samples.

    Args:
        name: ``fid`` for Inception features, ``fd_NAME`` for others.
        distance: Samples against the whole reference.
        at_equal_count: Samples against reference at ``floor.n`` images a side; None without floor.
        floor: Real against real; None if the reference is too small for one.
        extractor: The feature network.
        samples: The images judged.
        reference: The real images.
        remarks: What to be careful about.
    """

    name: str
    distance: FrechetResult
    at_equal_count: EqualCountDistance | None
    floor: EqualCountDistance | None
    extractor: Extractor
    samples: ImageSet
    reference: ImageSet
    remarks: tuple[Remark, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, in the schema ``genmetrics/1``; no number is NaN."""
        return {
            "schema": SCHEMA,
            "genmetrics_version": version("genmetrics"),
            "environment": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "device": str(self.extractor.device),
            },
            "samples": self.samples.to_dict(),
            "reference": self.reference.to_dict(),
            "extractor": {
                "name": self.extractor.name,
                "weights_sha256": self.extractor.weights_sha256,
                "preprocess_id": self.extractor.preprocess_id,
                "dtype": "float32",
            },
            "metrics": {
                self.name: {
                    "value": self.distance.value,
                    "mean_term": self.distance.mean_term,
                    "covariance_term": self.distance.covariance_term,
                    "n_samples": self.distance.n_a,
                    "n_ref": self.distance.n_b,
                    "rank_deficient": self.distance.rank_deficient,
                    "at_equal_count": self.at_equal_count and asdict(self.at_equal_count),
                    "floor": self.floor and asdict(self.floor),
                }
            },
            "warnings": [remark._asdict() for remark in self.remarks],
        }

    def to_text(self) -> str:
        """Return the table that the command line prints, without a final newline."""
        d = self.distance
        lines = [_line(self.name, f"{d.value:.4f}", f"{d.n_a} samples, {d.n_b} reference images")]
        for label, row, sides in (
            ("at equal N", self.at_equal_count, "samples against reference"),
            ("floor", self.floor, "reference against reference"),
        ):
            if row is not None:
                value = f"{row.value:.4f} +- {row.std:.4f}"
                lines.append(_line(f"  {label}", value, f"{sides}, {row.n} each"))
        return "\n".join(lines)


def _line(label: str, value: str, counts: str) -> str:
    return f"{label:<13} {value:<22} {counts}"
