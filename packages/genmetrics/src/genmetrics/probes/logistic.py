"""A linear classifier on frozen features: do the images show their class?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64
from torch import Tensor

from genmetrics.checks import (
    Labels,
    Rows,
    as_features,
    as_labels,
    require_finite,
    require_label_each,
)
from genmetrics.errors import BadInput, NumericalFailure


@dataclass(frozen=True, slots=True)
class LogisticProbe:
    """A fitted multinomial logistic regression on standardised features.

    Args:
        classes: The labels seen in training, ascending.
        shift: Training mean of each feature.
        scale: Training standard deviation of each feature; 1 where the feature is constant.
        weight: One row per class.
        bias: One number per class.
    """

    classes: Int64[Tensor, " c"]
    shift: Float64[Tensor, " d"]
    scale: Float64[Tensor, " d"]
    weight: Float64[Tensor, "c d"]
    bias: Float64[Tensor, " c"]

    def predict(self, features: Rows) -> Int64[Tensor, " n"]:
        """Return the most probable label of each row, on the CPU.

        Raises:
            NumericalFailure: If a feature is not finite.
        """
        features = as_features(features)
        require_finite(features, "features")
        rows = (features.to("cpu", torch.float64) - self.shift) / self.scale
        return self.classes[F.linear(rows, self.weight, self.bias).argmax(dim=1)]

    def accuracy(self, features: Rows, labels: Labels) -> float:
        """Return the share of rows whose label is predicted, in [0, 1]."""
        return self._hits(features, labels).mean().item()

    def balanced_accuracy(self, features: Rows, labels: Labels) -> float:
        """Return the share of rows predicted within each class in ``labels``, mean over classes.

        Guessing gets one over the number of classes, whatever their sizes.
        """
        hits, truth = self._hits(features, labels), as_labels(labels).cpu()
        return torch.stack([hits[truth == c].mean() for c in torch.unique(truth)]).mean().item()

    def _hits(self, features: Rows, labels: Labels) -> Float64[Tensor, " n"]:
        features, labels = as_features(features), as_labels(labels)
        require_label_each(labels, features)
        if len(labels) == 0:
            raise BadInput("Expected at least 1 row to score; got 0. Pass some features.")
        return (self.predict(features) == labels.cpu()).double()


@torch.inference_mode(mode=False)  # evaluation often runs in it, where nothing can be fitted
def logistic_probe(
    features: Rows,
    labels: Labels,
    *,
    l2: float = 1e-2,
    balanced: bool = False,
    whiten: bool = False,
) -> LogisticProbe:
    """Fit a multinomial logistic regression by L-BFGS, in float64 and without randomness.

    Minimises the mean cross-entropy plus ``l2 / 2`` times the sum of the squared weights, on
    features standardised with the training mean and deviation. The minimum is unique.

    The penalty depends on the basis of the features, and hides what varies little in it. To compare
    representations, whiten them: an invertible linear map of the features then changes no
    prediction. It takes many more rows than features, since it makes noise as large as the rest.

    Args:
        features: Training features.
        labels: Any integers, at least two different ones.
        l2: Strength of the penalty, above 0.
        balanced: Whether each class counts the same, however many rows it has.
        whiten: Whether the penalty is on weights of features that are whitened with the training
            covariance; directions without variance are left out.

    Raises:
        BadInput: If there are fewer than two classes, ``l2`` is not above 0, or there is not one
            label for each row.
        NumericalFailure: If a feature is not finite or the fit diverges.

    Example:
        >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> probe = logistic_probe(x, torch.tensor([3, 3, 7, 7]))
        >>> probe.predict(torch.tensor([[-5.0], [5.0]])).tolist()
        [3, 7]
    """
    if not l2 > 0:
        raise BadInput(f"Expected l2 above 0; got {l2}. Try 0.01.")
    features, labels = as_features(features), as_labels(labels)
    require_label_each(labels, features)
    require_finite(features, "features")
    classes, targets = torch.unique(labels.cpu(), return_inverse=True)
    if len(classes) < 2:
        raise BadInput(
            f"Expected labels of at least 2 classes; got {len(classes)}. "
            "A probe needs something to tell apart."
        )
    rows = features.to("cpu", torch.float64)
    shift, scale = rows.mean(dim=0), rows.std(dim=0)
    # Rounding gives a constant feature a deviation near 1e-17, which would blow it up.
    scale = torch.where(scale > 1e-12 * (1 + shift.abs()), scale, 1.0)
    row_weight = torch.ones(len(rows), dtype=torch.float64)
    if balanced:
        row_weight = targets.bincount().double().reciprocal()[targets]
    rows = (rows - shift) / scale
    basis = _whitening(rows) if whiten else torch.eye(rows.shape[1], dtype=torch.float64)
    weight, bias = _fit(rows @ basis, targets, row_weight / row_weight.sum(), l2)
    return LogisticProbe(classes, shift, scale, weight @ basis.T, bias)


def _whitening(rows: Tensor) -> Tensor:
    """Return a map of centred rows to uncorrelated ones of variance 1, as ``(d, rank)``."""
    variances, directions = torch.linalg.eigh(rows.T @ rows / (len(rows) - 1))
    kept = variances > 1e-10 * variances[-1]
    basis: Tensor = directions[:, kept] * variances[kept].rsqrt()
    return basis


class TunedProbe(NamedTuple):
    """A logistic regression whose penalty was chosen on held-out training rows.

    Args:
        probe: Fitted to all training rows.
        l2: The penalty.
        held_out_accuracy: Of the probe that was fitted without those rows.
    """

    probe: LogisticProbe
    l2: float
    held_out_accuracy: float


def tuned_logistic_probe(
    features: Rows,
    labels: Labels,
    *,
    l2_grid: Sequence[float] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4),
    seed: int = 0,
) -> TunedProbe:
    """Fit :func:`logistic_probe` with the penalty that does best on a random fifth of the rows.

    The rows that a probe is later tested on have no say in it.

    Args:
        features: Training features.
        labels: Any integers; at least two classes among four fifths of the rows.
        l2_grid: Penalties to try; the earlier one of equals is taken.
        seed: Seed of the choice of held-out rows.

    Raises:
        BadInput: As :func:`logistic_probe`, or if there are fewer than 5 rows.
        NumericalFailure: As there.

    Example:
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> tuned_logistic_probe(x, (x[:, 0] > 0).long()).l2
        1.0
    """
    features, labels = as_features(features), as_labels(labels)
    require_label_each(labels, features)
    if len(features) < 5:
        raise BadInput(f"Expected at least 5 rows to hold some out; got {len(features)}.")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order.tensor_split([len(features) // 5])
    scores = {
        l2: logistic_probe(features[rest], labels[rest], l2=l2).accuracy(
            features[held_out], labels[held_out]
        )
        for l2 in l2_grid
    }
    l2 = max(scores, key=scores.__getitem__)
    return TunedProbe(logistic_probe(features, labels, l2=l2), l2, scores[l2])


def _fit(rows: Tensor, targets: Tensor, row_weight: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    num_classes = int(targets.max()) + 1
    weight = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        entropy = F.cross_entropy(F.linear(rows, weight, bias), targets, reduction="none")
        loss: Tensor = (row_weight * entropy).sum() + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    if not torch.isfinite(weight).all():
        raise NumericalFailure("Expected finite probe weights; got NaN. Raise l2.")
    return weight.detach(), bias.detach()
