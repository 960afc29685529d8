"""How far a Frechet distance would move with other samples from the same generator.

The delta method: to first order each sample ``x`` moves the distance by its influence

    2 (mu - mu_r) . (x - mu) + (x - mu)^T (I - T) (x - mu),    T = F (F^T S F)^(-1/2) F^T,

centred and divided by the number of samples, where ``F F^T = S_r`` is the covariance of the
reference and ``T`` the linear map that transports the samples' Gaussian to the reference's.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from genmetrics.checks import OtherRows, Rows, as_features, require_finite
from genmetrics.errors import BadInput, NumericalFailure
from genmetrics.features.stats import GaussianStats, StatsAccumulator
from genmetrics.metrics.frechet import centred_factor, eigen_factor

_ROWS_AT_ONCE = 4096


def frechet_standard_error(samples: Rows, reference: GaussianStats | OtherRows) -> float:
    """Estimate the standard error of the Frechet distance of these samples, without resampling.

    The reference counts as fixed, as it does for whoever compares two models against one file.
    The error is that of noise alone: with few samples per dimension the bias is far larger, see
    :func:`genmetrics.fd_infinity`. It is of first order, so it vanishes where the distance does
    (two equal sources), where :func:`genmetrics.frechet_floor` says more.

    Args:
        samples: Features of the samples, at least 2 rows.
        reference: Statistics or features of the real images.

    Returns:
        One standard deviation of the distance; 1.96 of them on both sides make a 95 % interval.

    Raises:
        BadInput: If a set has fewer than 2 rows or the dimensions differ.
        NumericalFailure: If a feature is not finite or no finite error comes out.

    Example:
        >>> samples = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> reference = GaussianStats(100, torch.ones(3, dtype=torch.float64), eye)
        >>> 0.15 < frechet_standard_error(samples, reference) < 0.2  # 2 sqrt(3 / 400) = 0.173
        True
    """
    samples = as_features(samples, "features of the samples")
    if not isinstance(reference, GaussianStats):
        reference = as_features(reference, "features of the reference")
    dim = samples.shape[1]
    other = reference.dim if isinstance(reference, GaussianStats) else reference.shape[1]
    if dim != other:
        raise BadInput(
            f"Expected two sets of features of one dimension; got {dim} and {other}. "
            "Use one extractor for both."
        )
    influence = _influence(samples, *_mean_and_factor(reference))
    error = influence.std().item() / math.sqrt(len(samples))
    if not math.isfinite(error):
        raise NumericalFailure(
            "Expected a finite standard error; got an overflow. Scale the features down."
        )
    return error


def _mean_and_factor(
    reference: GaussianStats | Tensor,
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d rank"]]:
    """Return the mean, and ``F`` with ``F F^T`` the covariance; few rows are one as they are."""
    if not isinstance(reference, GaussianStats):
        if 2 <= len(reference) <= reference.shape[1]:
            require_finite(reference, "features")
            mean, rows = centred_factor(reference)
            return mean, rows.T
        reference = StatsAccumulator(reference.shape[1]).update(reference).finalize()
    lower, failed = torch.linalg.cholesky_ex(reference.cov)
    return reference.mean, eigen_factor(reference) if failed else lower


def _influence(
    samples: Tensor, reference_mean: Float64[Tensor, " d"], factor: Float64[Tensor, "d rank"]
) -> Float64[Tensor, " n"]:
    """Return what each sample adds to the distance, up to a constant."""
    stats = StatsAccumulator(samples.shape[1]).update(samples).finalize()
    product = factor.T @ stats.cov @ factor
    eigenvalues, vectors = torch.linalg.eigh((product + product.T) / 2)
    # Samples do not vary along the other directions, whose eigenvalues are rounding.
    keep = eigenvalues > len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1]
    directions = factor @ vectors[:, keep] * eigenvalues[keep] ** -0.25
    gap = 2 * (stats.mean - reference_mean)
    parts = []
    for rows in samples.split(_ROWS_AT_ONCE):
        centred = rows.to("cpu", torch.float64) - stats.mean
        transported = (centred @ directions).square().sum(dim=1)
        parts.append(centred @ gap + centred.square().sum(dim=1) - transported)
    return torch.cat(parts)
