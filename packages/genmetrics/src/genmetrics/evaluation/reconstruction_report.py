"""Scores of reconstructions with every convention behind them, as JSON and as a table."""

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from genmetrics.errors import BadInput
from genmetrics.evaluation.protocols import SCHEMA
from genmetrics.evaluation.report import ImageSet, Remark, environment
from genmetrics.images.pairing import Pairing
from genmetrics.metrics.frechet import FrechetResult
from genmetrics.metrics.pixel_metrics import PSNR_CAP_DB
from genmetrics.networks.extractors import Extractor

_QUANTISER = "bytes as stored, not converted"


@dataclass(frozen=True, slots=True)
class PairScore:
    """One number per pair.

    Args:
        per_pair: The numbers, in the order of the originals.
        conventions: What the numbers depend on, in words and constants.
    """

    per_pair: Float64[Tensor, " n"]
    conventions: dict[str, Any]

    @property
    def value(self) -> float:
        """Mean over the pairs."""
        return self.per_pair.mean().item()

    @property
    def standard_error(self) -> float | None:
        """Of the mean, from the spread between pairs; None for a single pair."""
        if len(self.per_pair) < 2:
            return None
        return self.per_pair.std().item() / math.sqrt(len(self.per_pair))


class NamedValue(NamedTuple):
    """A pair and what it scored."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class ReconstructionResult:
    """Scores of reconstructions. What was not asked for is None.

    Args:
        real: The originals.
        recon: The reconstructions.
        pairing: How partners were found.
        names: What each pair is called.
        class_of: Class of each pair: its folder or number; None where nothing says so.
        psnr: In dB, at most 100; its ``value`` is the mean of the pairs' PSNRs.
        psnr_of_mean_mse: In dB: errors are averaged over all pairs first, so bad pairs weigh more.
        ssim: At most 1.
        lpips: At least 0, and 0 for equal images.
        rfid: Frechet distance of the two sets.
        extractor: The feature network of ``rfid``.
        remarks: What to be careful about.
    """

    real: ImageSet
    recon: ImageSet
    pairing: Pairing
    names: list[str]
    class_of: list[str] | None
    psnr: PairScore | None
    psnr_of_mean_mse: float | None
    ssim: PairScore | None
    lpips: PairScore | None
    rfid: FrechetResult | None
    extractor: Extractor | None
    remarks: tuple[Remark, ...]

    @property
    def rfid_name(self) -> str:
        """What the distance may be called: only Inception's is rFID."""
        return "rfid" if self.extractor is None else f"r{self.extractor.frechet_name}"

    @property
    def pair_scores(self) -> dict[str, PairScore]:
        """Those of psnr, ssim and lpips that were computed."""
        scores = {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips}
        return {name: score for name, score in scores.items() if score is not None}

    def worst(self, num: int) -> dict[str, list[NamedValue]]:
        """Return the pairs that came back worst by each metric, the worst first.

        Args:
            num: How many; fewer where there are fewer pairs.
        """
        found = {}
        for name, score in self.pair_scores.items():
            order = score.per_pair.argsort(descending=name == "lpips", stable=True)[:num]
            found[name] = [
                NamedValue(self.names[i], score.per_pair[i].item()) for i in order.tolist()
            ]
        return found

    def per_class(self) -> dict[str, dict[str, PairScore]]:
        """Return the scores of each class, by class and metric.

        Raises:
            BadInput: If the originals have no classes.
        """
        if self.class_of is None:
            raise BadInput(
                f"Expected classes of the images in {self.real.path}, as sub-folders or arr_1; "
                "got none. Leave --per-class out."
            )
        rows: dict[str, list[int]] = {name: [] for name in sorted(set(self.class_of))}
        for row, name in enumerate(self.class_of):
            rows[name].append(row)
        return {
            name: {
                metric: PairScore(score.per_pair[torch.tensor(chosen)], score.conventions)
                for metric, score in self.pair_scores.items()
            }
            for name, chosen in rows.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, in the schema ``genmetrics/1``; no number is NaN."""
        metrics: dict[str, Any] = {
            name: {
                "value": score.value,
                "se": score.standard_error,
                "se_reason": "one pair has no spread" if score.standard_error is None else None,
                "n_pairs": len(score.per_pair),
                **score.conventions,
            }
            for name, score in self.pair_scores.items()
        }
        if self.psnr is not None:
            metrics["psnr"]["of_mean_mse"] = self.psnr_of_mean_mse
        if self.rfid is not None and self.extractor is not None:
            metrics[self.rfid_name] = asdict(self.rfid) | self.extractor.provenance
        return {
            "schema": SCHEMA,
            "genmetrics_version": version("genmetrics"),
            "environment": environment(),
            "real": self.real.to_dict(),
            "recon": self.recon.to_dict(),
            "pairing": self.pairing,
            "quantiser": _QUANTISER,
            "metrics": metrics,
            "warnings": [remark._asdict() for remark in self.remarks],
        }

    def to_text(self) -> str:
        """Return the table that the command line prints, without a final newline."""
        lines = [f"{len(self.names)} pairs by {self.pairing}, {_QUANTISER}"]
        if self.psnr is not None and self.psnr_of_mean_mse is not None:
            note = f"mean of the pairs' PSNRs, each at most {PSNR_CAP_DB:.0f} dB, peak 255"
            lines.append(_line("psnr", f"{_with_error(self.psnr, 4)} dB", note))
            of_mean = f"{self.psnr_of_mean_mse:.4f} dB"
            lines.append(_line("  of mean MSE", of_mean, "errors averaged over pairs first"))
        if self.ssim is not None:
            note = f"{self.ssim.conventions['window']}, range 255"
            lines.append(_line("ssim", _with_error(self.ssim, 5), note))
        if self.lpips is not None:
            used = self.lpips.conventions
            note = f"{used['net']} v{used['version']}, weights {used['weights_sha256'][:8]}..."
            lines.append(_line("lpips", _with_error(self.lpips, 5), note))
        if self.rfid is not None and self.extractor is not None:
            note = f"{self.rfid.n_a} reconstructions against their {self.rfid.n_b} originals"
            lines.append(_line(self.rfid_name, f"{self.rfid.value:.4f}", note))
        return "\n".join(lines)


def _with_error(score: PairScore, digits: int) -> str:
    error = score.standard_error
    return f"{score.value:.{digits}f}" + ("" if error is None else f" +- {error:.{digits}f}")


def _line(label: str, value: str, note: str) -> str:
    return f"{label:<13} {value:<23} {note}"
