"""The Frechet distance between two sets of features, right at any number of samples.

    d^2 = |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

The trace of the root is the sum of the square roots of the eigenvalues of ``L^T S_a L`` with
``L L^T = S_b``, or the nuclear norm of ``F_a^T F_b`` with ``F F^T = S``: symmetric problems in
float64, with no complex root, no added epsilon and no SciPy. With fewer samples than dimensions the
covariances are singular; only as many eigenvalues are kept as the sample counts allow.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from genmetrics.checks import OtherRows, Rows, as_two_sets, described, require_finite
from genmetrics.errors import BadInput, NumericalFailure
from genmetrics.features.stats import GaussianStats, StatsAccumulator


@dataclass(frozen=True, slots=True)
class FrechetResult:
    """A squared Frechet distance with its two parts and the sample counts it depends on.

    Args:
        value: The distance (what the field calls FID, for Inception features), at least 0.
        mean_term: Squared distance of the means.
        covariance_term: The rest, from spread and correlation; at least 0.
        n_a: Samples of the first set; None if its statistics do not say.
        n_b: Samples of the second set; likewise.
        rank_deficient: Whether a set has no more samples than dimensions. The value is then exact
            for these samples, but far above what more samples of the same source would give.
    """

    value: float
    mean_term: float
    covariance_term: float
    n_a: int | None
    n_b: int | None
    rank_deficient: bool


def frechet_distance(a: GaussianStats, b: GaussianStats) -> FrechetResult:
    """Compute the squared Frechet distance between two Gaussians.

    If both sets have at most as many samples as dimensions,
    :func:`frechet_distance_from_features` is more precise and quicker.

    Args:
        a: The samples.
        b: The reference; its Cholesky factor is tried first.

    Raises:
        BadInput: If one is no Gaussian, as features are, or the dimensions differ.
        NumericalFailure: If no finite distance comes out.

    Example:
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> a = GaussianStats(100, torch.zeros(3, dtype=torch.float64), eye)
        >>> b = GaussianStats(100, torch.ones(3, dtype=torch.float64), 4 * eye)
        >>> round(frechet_distance(a, b).value, 9)  # 3 * 1^2 + 3 * (2 - 1)^2
        6.0
    """
    _require_gaussians(a, b)
    if a.dim != b.dim:
        raise BadInput(
            f"Expected two sets of features of one dimension; got {a.dim} and {b.dim}. "
            "Use one extractor for both."
        )
    try:
        root_trace = _root_trace(a, b)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # it is there
        raise NumericalFailure(
            f"Expected eigenvalues of two {a.dim}-d covariances; got no convergence ({error}). "
            "Check the features for absurd values."
        ) from error
    traces = a.cov.trace() + b.cov.trace()
    return _result(a.mean - b.mean, traces, root_trace, (a.n, b.n))


def frechet_distance_from_features(x: Rows, y: OtherRows) -> FrechetResult:
    """Compute the squared Frechet distance between the Gaussians fitted to two sets of features.

    If both sets have at most ``d`` rows, the distance comes from the ``n x m`` product of the
    centred features and no covariance is built: exact to rounding, and quick. Otherwise the
    statistics are gathered and :func:`frechet_distance` is called.

    Args:
        x: The samples, at least 2 rows.
        y: The reference, at least 2 rows.

    Raises:
        BadInput: If a set has fewer than 2 rows, or the dimensions differ.
        NumericalFailure: If a feature is not finite; the message names the rows.

    Example:
        >>> x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
        >>> round(frechet_distance_from_features(x, x + 1).value, 9)
        3.0
    """
    x, y = as_two_sets(x, y)
    for name, features in (("first", x), ("second", y)):
        require_finite(features, f"features of the {name} set")
        if len(features) < 2:
            raise BadInput(
                f"Expected at least 2 samples in the {name} set; got {len(features)}. Add images."
            )
    dim = x.shape[1]
    if len(x) > dim or len(y) > dim:
        a, b = (StatsAccumulator(dim).update(features).finalize() for features in (x, y))
        return frechet_distance(a, b)
    mean_x, factor_x = centred_factor(x)
    mean_y, factor_y = centred_factor(y)
    root_trace = torch.linalg.svdvals(factor_x @ factor_y.T).sum()
    traces = factor_x.square().sum() + factor_y.square().sum()
    return _result(mean_x - mean_y, traces, root_trace, (len(x), len(y)))


def _require_gaussians(*sets: object) -> None:
    for each in sets:
        if not isinstance(each, GaussianStats):
            raise BadInput(
                f"Expected Gaussians (GaussianStats); got {described(each)}. Use "
                "frechet_distance_from_features for features, load_stats for a file."
            )


def centred_factor(
    features: Float[Tensor, "n d"],
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "n d"]]:
    """Return the mean, and ``F`` with ``F^T F`` the unbiased covariance."""
    rows = features.to("cpu", torch.float64)
    mean = rows.mean(dim=0)
    return mean, (rows - mean) / math.sqrt(len(rows) - 1)


def _root_trace(a: GaussianStats, b: GaussianStats) -> Float64[Tensor, ""]:
    """Return the trace of ``(S_a S_b)^(1/2)``, by Cholesky where a covariance has full rank."""
    rank = min(a.rank_bound, b.rank_bound)
    for base, other in ((b, a), (a, b)):
        lower, failed = torch.linalg.cholesky_ex(base.cov)
        if not failed:
            product = lower.T @ other.cov @ lower
            eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
            # The other eigenvalues are rounding, and their roots would not be small.
            roots: Tensor = eigenvalues[-rank:].clamp(min=0).sqrt()
            return roots.sum()
    root_trace: Tensor = torch.linalg.svdvals(eigen_factor(a).T @ eigen_factor(b)).sum()
    return root_trace


def eigen_factor(stats: GaussianStats) -> Float64[Tensor, "d rank"]:
    """Return ``F`` with ``F F^T`` the covariance, a column for each direction it can have."""
    eigenvalues, vectors = torch.linalg.eigh(stats.cov)
    keep = stats.rank_bound
    factor: Tensor = vectors[:, -keep:] * eigenvalues[-keep:].clamp(min=0).sqrt()
    return factor


def _result(
    mean_gap: Tensor, traces: Tensor, root_trace: Tensor, counts: tuple[int | None, int | None]
) -> FrechetResult:
    mean_term = mean_gap.square().sum().item()
    covariance_term = (traces - 2 * root_trace).item()
    if not math.isfinite(mean_term + covariance_term):
        raise NumericalFailure(
            "Expected a finite Frechet distance; got an overflow. Scale the features down."
        )
    if covariance_term < -1e-6 * traces.item():
        raise NumericalFailure(
            f"Expected a covariance term of at least 0; got {covariance_term:.3g}. "
            "Check that both covariances are symmetric and positive."
        )
    covariance_term = max(covariance_term, 0.0)
    return FrechetResult(
        value=mean_term + covariance_term,
        mean_term=mean_term,
        covariance_term=covariance_term,
        n_a=counts[0],
        n_b=counts[1],
        rank_deficient=any(n is not None and n <= len(mean_gap) for n in counts),
    )
