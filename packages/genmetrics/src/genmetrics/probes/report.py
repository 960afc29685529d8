"""What a probe found, with everything that its accuracy depends on."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from genmetrics.evaluation.report import Remark
from genmetrics.probes.presets import ProbePreset

_FEW_STEPS = 0.25  # of the recipe's


class TopK(NamedTuple):
    """Shares of rows, in [0, 1], whose class is the first guess, or among the first five."""

    top1: float
    top5: float


class ProbeRun(NamedTuple):
    """One training.

    Args:
        seed: Of the first weights and the order of the rows.
        final: Accuracy after the last epoch.
        best: Accuracy after the epoch with the highest top-1, the first of equals.
        best_epoch: Which that is, counted from 1.
    """

    seed: int
    final: TopK
    best: TopK
    best_epoch: int


class Spread(NamedTuple):
    """A mean over seeds, and the sample deviation; None for one seed."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise one number per seed.

        Example:
            >>> Spread.of([0.25, 0.75]).mean, Spread.of([0.25]).std
            (0.5, None)
        """
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accuracies of a linear probe.

    Args:
        preset: The recipe.
        epochs: Passes over the training rows.
        batch_size: Rows per step.
        feature_dim: Numbers per row, after pooling.
        pooling: How tokens became a row; ``none`` if there were none.
        n_train: Training rows.
        n_val: Rows that accuracies were measured on.
        num_classes: Classes seen in training; other labels count as missed.
        runs: One training per seed.
    """

    preset: ProbePreset
    epochs: int
    batch_size: int
    feature_dim: int
    pooling: str
    n_train: int
    n_val: int
    num_classes: int
    runs: tuple[ProbeRun, ...]

    @property
    def top1(self) -> Spread:
        """Accuracy after the last epoch."""
        return Spread.of([run.final.top1 for run in self.runs])

    @property
    def top5(self) -> Spread | None:
        """Share after the last epoch of rows whose class is among the five first guesses.

        None for at most five classes, of which five guesses always hit.
        """
        return self._top5([run.final for run in self.runs])

    @property
    def best_top1(self) -> Spread:
        """Accuracy after the best epoch of each run, chosen on the rows it is measured on."""
        return Spread.of([run.best.top1 for run in self.runs])

    @property
    def best_top5(self) -> Spread | None:
        """The top-5 share after the epoch of the best top-1."""
        return self._top5([run.best for run in self.runs])

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What to be careful about: far fewer steps than the recipe takes."""
        steps = self.epochs * (self.n_train // self.batch_size)
        if steps >= _FEW_STEPS * self.preset.usual_steps:
            return ()
        message = (
            f"Expected some {self.preset.usual_steps} steps, as the preset {self.preset.name} "
            f"takes on ImageNet; got {steps}, so accuracies may be too low and in another order. "
            "Raise --epochs or lower --batch-size."
        )
        return (Remark("FEW_STEPS", message),)

    def _top5(self, shares: Sequence[TopK]) -> Spread | None:
        return Spread.of([each.top5 for each in shares]) if self.num_classes > 5 else None

    @property
    def standard_error(self) -> float:
        """Of the final accuracy, from the number of validation rows alone."""
        p = self.top1.mean
        return float((p * (1 - p) / self.n_val) ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; no number is NaN."""
        top5, best_top5 = (each and each._asdict() for each in (self.top5, self.best_top5))
        reason = "one seed has no spread" if len(self.runs) == 1 else None
        return {
            "feature_dim": self.feature_dim,
            "pooling": self.pooling,
            "n_train": self.n_train,
            "n_val": self.n_val,
            "num_classes": self.num_classes,
            "chance": 1 / self.num_classes,
            "final": {"top1": self.top1._asdict(), "top5": top5},
            "best_epoch": {"top1": self.best_top1._asdict(), "top5": best_top5},
            "std_reason": reason,
            "se_top1": self.standard_error,
            "runs": [
                {
                    "seed": run.seed,
                    "final": self._plain(run.final),
                    "best": self._plain(run.best),
                    "best_epoch": run.best_epoch,
                }
                for run in self.runs
            ],
        }

    def _plain(self, share: TopK) -> dict[str, float | None]:
        return {"top1": share.top1, "top5": share.top5 if self.num_classes > 5 else None}
