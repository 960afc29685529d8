"""Extreme singular values of a batch, with what is needed to believe them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genmetrics.errors import BadInput
from genmetrics.jacobian.estimate import Estimate
from genmetrics.jacobian.operators import JvpMode

Method = Literal["auto", "exact", "gkl", "power"]
Smin = Literal["auto", "inverse", "triangular", "cg"]

_QUANTILES = {"p05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "p95": 0.95}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrumSettings:
    """How the numbers were asked for.

    Args:
        method: Of the largest singular value; ``exact`` is all of them.
        smin: Of the smallest; ``exact`` if the method is.
        delta: Shift of the CG method.
        tol: Relative residual at which a sample is done.
        max_products: Passes through the flow to spend on each of the two.
        dtype: Of everything.
        seed: Of the starting vector.
        jvp: Forward mode or central differences.
    """

    method: Method
    smin: Smin | Literal["exact"]
    delta: float
    tol: float
    max_products: int
    dtype: str
    seed: int
    jvp: JvpMode


@dataclass(frozen=True, slots=True)
class SpectrumResult:
    """The ends of the spectrum of the Jacobian at each sample.

    Args:
        largest: The largest singular value.
        smallest: The smallest.
        dim: Dimensions d of a sample.
        settings: How they were found.
        log_det: ``log |det J|`` as the flow itself gives it; None if it gives none.
        singular_values: All of them in exact mode, largest first; else None.
    """

    largest: Estimate
    smallest: Estimate
    dim: int
    settings: SpectrumSettings
    log_det: Float[Tensor, " b"] | None = None
    singular_values: Float[Tensor, "b d"] | None = None

    @property
    def resolved(self) -> Bool[Tensor, " b"]:
        """Whether ``sigma_min / sigma_max`` is above the machine epsilon.

        Below it no method knows the smallest singular value.
        """
        ratio = self.smallest.value / self.largest.value
        return ratio > torch.finfo(self.largest.value.dtype).eps

    @property
    def sigma_max(self) -> Float[Tensor, " b"]:
        """The largest singular value; never above the truth."""
        return self.largest.value

    @property
    def sigma_min(self) -> Float[Tensor, " b"]:
        """The smallest singular value, never below the truth; NaN where it is unresolved."""
        return torch.where(self.resolved, self.smallest.value, torch.nan)

    @property
    def log10_kappa(self) -> Float[Tensor, " b"]:
        """Decimal logarithm of the condition number, never above the truth; NaN if unresolved."""
        return torch.log10(self.sigma_max / self.sigma_min)

    @property
    def converged(self) -> Bool[Tensor, " b"]:
        """Whether both ends are certified to the tolerance, and resolved."""
        return self.largest.converged & self.smallest.converged & self.resolved

    def summary(self) -> dict[str, dict[str, float | int]]:
        """Return median, quartiles, 5 and 95 % over the resolved samples, and their number."""
        return {
            "sigma_max": _summary(self.sigma_max),
            "sigma_min": _summary(self.sigma_min),
            "log10_kappa": _summary(self.log10_kappa),
            "ln_kappa": _summary(self.log10_kappa * math.log(10)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is unresolved is null, with ``reason``."""
        log_det = (
            self.log_det if self.log_det is not None else torch.full_like(self.sigma_max, torch.nan)
        )
        check = log_det_check(self, log_det)
        return {
            "n": len(self.sigma_max),
            "dim": self.dim,
            "converged": int(self.converged.sum()),
            "resolved": int(self.resolved.sum()),
            "bounds": {"sigma_max": self.largest.bound, "sigma_min": self.smallest.bound},
            "methods": {"sigma_max": self.largest.method, "sigma_min": self.smallest.method},
            "products": {
                "sigma_max": self.largest.num_products,
                "sigma_min": self.smallest.num_products,
            },
            "settings": asdict(self.settings),
            "summary": self.summary(),
            "samples": [self._sample(row, check) for row in range(len(self.sigma_max))],
        }

    def _sample(self, row: int, check: "LogDetCheck") -> dict[str, Any]:
        return {
            "sigma_max": self.sigma_max[row].item(),
            "sigma_min": _finite(self.sigma_min[row]),
            "log10_kappa": _finite(self.log10_kappa[row]),
            "ln_kappa": _finite(self.log10_kappa[row] * math.log(10)),
            "reason": None if self.resolved[row] else "unresolved: kappa above 1 / epsilon",
            "converged": bool(self.converged[row]),
            "largest": self.largest.certificate(row),
            "smallest": self.smallest.certificate(row),
            "log_det": None if self.log_det is None else _finite(self.log_det[row]),
            "log_det_gap": _finite(check.gap[row]),
            "log_det_consistent": None if self.log_det is None else bool(check.consistent[row]),
        }

    @classmethod
    def concatenate(cls, results: Sequence["SpectrumResult"]) -> "SpectrumResult":
        """Join the results of batches that were computed with the same settings."""
        first = results[0]
        log_dets = [r.log_det for r in results if r.log_det is not None]
        values = [r.singular_values for r in results if r.singular_values is not None]
        return cls(
            largest=Estimate.concatenate([r.largest for r in results]),
            smallest=Estimate.concatenate([r.smallest for r in results]),
            dim=first.dim,
            settings=first.settings,
            log_det=torch.cat(log_dets) if log_dets else None,
            singular_values=torch.cat(values) if values else None,
        )

    def to_text(self) -> str:
        """Return the table that the command line prints, without a final newline."""
        b, converged = len(self.sigma_max), int(self.converged.sum())
        lines = [f"{'':<12} {'median':>10}   {'quartiles':<22} 5 to 95 %"]
        summary = self.summary()
        for name in ("sigma_max", "sigma_min", "log10_kappa"):
            row = {key: f"{value:.4g}" for key, value in summary[name].items()}
            if summary[name]["n"] == 0:
                lines.append(f"{name:<12} {'unresolved':>10}")
                continue
            quartiles, tails = f"{row['q25']} to {row['q75']}", f"{row['p05']} to {row['p95']}"
            lines.append(f"{name:<12} {row['median']:>10}   {quartiles:<22} {tails}".rstrip())
        lines.append(f"{b} samples, {converged} converged, {int(self.resolved.sum())} resolved")
        for name, estimate in (("sigma_max", self.largest), ("sigma_min", self.smallest)):
            how = (
                estimate.method
                if estimate.bound == "exact"
                else (f"{estimate.bound} bound by {estimate.method}")
            )
            lines.append(f"{name}: {how}, {estimate.num_products} products")
        if self.log_det is not None:
            check = log_det_check(self, self.log_det)
            lines.append(f"log-determinant consistent in {int(check.consistent.sum())} of {b}")
        return "\n".join(lines)


class LogDetCheck(NamedTuple):
    """Whether singular values and a log-determinant belong together.

    Args:
        gap: ``|sum log sigma - log_det|`` in nats, where all singular values are known; else NaN.
        consistent: Whether they agree: to 1e-6 (float32: 1e-2) nats per dimension where all are
            known, else whether ``d log sigma_min <= log_det <= d log sigma_max``.
    """

    gap: Float[Tensor, " b"]
    consistent: Bool[Tensor, " b"]


def log_det_check(
    spectrum: SpectrumResult | Float[Tensor, "b d"], log_det: Float[Tensor, " b"]
) -> LogDetCheck:
    """Hold singular values against the log-determinant that the flow claims: a free trust test.

    Args:
        spectrum: A result, or all singular values of each sample.
        log_det: ``log |det J|`` of each sample, in nats.

    Raises:
        BadInput: If the numbers of samples differ.

    Example:
        >>> values = torch.tensor([[4.0, 0.5]], dtype=torch.float64)
        >>> log_det_check(values, torch.log(torch.tensor([2.0], dtype=torch.float64))).consistent
        tensor([True])
    """
    values = spectrum if isinstance(spectrum, Tensor) else spectrum.singular_values
    b = len(spectrum if isinstance(spectrum, Tensor) else spectrum.sigma_max)
    if len(log_det) != b:
        raise BadInput(
            f"Expected a log-determinant for each of {b} samples; got {len(log_det)}. "
            "Evaluate it at the same latents."
        )
    if values is not None:
        gap = (values.log().sum(dim=1) - log_det).abs()
        tol = 1e-6 if values.dtype == torch.float64 else 1e-2
        return LogDetCheck(gap, gap <= tol * values.shape[1])
    assert isinstance(spectrum, SpectrumResult)  # tensors are values
    return LogDetCheck(torch.full_like(log_det, torch.nan), _within_bounds(spectrum, log_det))


def _within_bounds(spectrum: SpectrumResult, log_det: Tensor) -> Bool[Tensor, " b"]:
    """Compare with what d equal singular values would give, to the precision of the estimates."""
    d, tol = spectrum.dim, spectrum.settings.tol
    lowest = d * (spectrum.smallest.value.log() - spectrum.smallest.residual.clamp(min=tol))
    highest = d * (spectrum.largest.value.log() + spectrum.largest.residual.clamp(min=tol))
    return (lowest <= log_det) & (log_det <= highest)


def _finite(value: Tensor) -> float | None:
    return value.item() if torch.isfinite(value) else None


def _summary(values: Float[Tensor, " b"]) -> dict[str, float | int]:
    finite = values[torch.isfinite(values)]
    if not len(finite):
        return {"n": 0}
    levels = finite.new_tensor(list(_QUANTILES.values()))
    quantiles = torch.quantile(finite, levels).tolist()
    return {"n": len(finite), **dict(zip(_QUANTILES, quantiles, strict=True))}
