"""Scores with everything that is needed to compare them with others."""

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genmetrics.evaluation.protocols import SCHEMA, Protocol
from genmetrics.images.sources import ImageSource
from genmetrics.networks.extractors import Extractor

__all__ = ["ImageSet", "Remark", "Report", "Score", "environment"]


def environment(**more: str) -> dict[str, str]:
    """Return the versions that numbers depend on, and what else is known of where they were made.

    Args:
        **more: Such as ``device``.
    """
    return {"python": platform.python_version(), "torch": str(torch.__version__), **more}


class Remark(NamedTuple):
    """Something that the reader of a score must know.

    Args:
        code: A word in capitals that never changes.
        message: A sentence for people.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Score:
    """One number with its counts and its error.

    Args:
        value: The score.
        n_samples: Images that were judged.
        n_ref: Reference images behind it; None if it has none or they are unknown.
        se: Standard error, what other samples of the same source would change; None if unknown.
        details: More numbers, by name.
        rows: Lines of the table below the score's own: label, value and counts.
    """

    value: float
    n_samples: int
    n_ref: int | None
    se: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[tuple[str, str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is no number becomes None."""
        ci95 = None
        if self.se is not None and math.isfinite(self.se):
            ci95 = [self.value - 1.96 * self.se, self.value + 1.96 * self.se]
        plain = {
            "value": self.value,
            "se": self.se,
            "ci95": ci95,
            "n_samples": self.n_samples,
            "n_ref": self.n_ref,
            **self.details,
        }
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in plain.items()
        }

    def to_lines(self, name: str) -> list[str]:
        """Return the table's line of this score, and those below it."""
        value = f"{self.value:.4f}" + ("" if self.se is None else f" +- {self.se:.4f}")
        counts = f"{self.n_samples} samples"
        if self.n_ref is not None:
            counts += f", {self.n_ref} reference images"
        lines = [(name, value, counts), *self.rows]
        return [f"{label:<20} {shown:<22} {text}".rstrip() for label, shown, text in lines]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Which images were read.

    Args:
        path: Folder or file.
        kind: ``folder``, ``zip``, ``npz``, ``memory``, ``stream`` or ``statistics``.
        n: How many images; None for statistics of an unknown number.
        fingerprint: Changes with the images; of a folder it holds their sizes and times only.
        format: Whose statistics are used, such as ``adm``; None if none are.
    """

    path: Path
    kind: str
    n: int | None
    fingerprint: str
    format: str | None = None

    @classmethod
    def of(cls, source: ImageSource) -> "ImageSet":
        """Describe a source."""
        return cls(source.path, source.kind, len(source), source.fingerprint())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; those of images alone have no ``format``."""
        plain = asdict(self) | {"path": str(self.path)}
        if self.format is None:
            del plain["format"]
        return plain


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of one set of samples.

    Args:
        scores: Each score by name; ``fid`` is of Inception features, others are named after theirs.
        protocol: The constants.
        seed: Seed of the random subsets.
        extractor: The feature network.
        samples: The images judged.
        reference: The real images, or their statistics.
        remarks: What to be careful about.
    """

    scores: Mapping[str, Score]
    protocol: Protocol
    seed: int
    extractor: Extractor
    samples: ImageSet
    reference: ImageSet
    remarks: tuple[Remark, ...]

    def __getitem__(self, name: str) -> Score:
        """Return a score by its name.

        Raises:
            KeyError: If there is none; lists those that there are.
        """
        if name not in self.scores:
            raise KeyError(
                f"Expected a score among {', '.join(self.scores)}; got {name}. Scores are named "
                "after their network."
            )
        return self.scores[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, in the schema ``genmetrics/1``; no number is NaN."""
        return {
            "schema": SCHEMA,
            "genmetrics_version": version("genmetrics"),
            "environment": environment(device=str(self.extractor.device)),
            "protocol": asdict(self.protocol),
            "seed": self.seed,
            "samples": self.samples.to_dict(),
            "reference": self.reference.to_dict(),
            "extractor": {
                "name": self.extractor.name,
                "weights_sha256": self.extractor.weights_sha256,
                "preprocess_id": self.extractor.preprocess_id,
                "dtype": "float32",
            },
            "metrics": {name: score.to_dict() for name, score in self.scores.items()},
            "warnings": [remark._asdict() for remark in self.remarks],
        }

    def to_text(self) -> str:
        """Return the table that the command line prints, without a final newline."""
        return "\n".join(
            line for name, score in self.scores.items() for line in score.to_lines(name)
        )
