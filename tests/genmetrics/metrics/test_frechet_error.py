import numpy as np
import pytest
import torch

from genmetrics import (
    BadInput,
    GaussianStats,
    NumericalFailure,
    StatsAccumulator,
    frechet_distance,
)
from genmetrics.metrics.frechet_error import frechet_standard_error


def random_rows(n, d, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + offset


def fitted(x):
    return StatsAccumulator(x.shape[1]).update(x).finalize()


@pytest.fixture(scope="module")
def simulation():
    """Distance and standard error of 600 draws of 300 samples from one Gaussian, and the truth."""
    reference = fitted(random_rows(4000, 5, 0, offset=0.3))
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(5, 5, generator=generator, dtype=torch.float64) / 5**0.5
    draws = []
    for _ in range(600):
        x = torch.randn(300, 5, generator=generator, dtype=torch.float64) @ mix
        value = frechet_distance(fitted(x), reference).value
        draws.append((value, frechet_standard_error(x, reference)))
    source = GaussianStats(10**9, torch.zeros(5, dtype=torch.float64), mix.T @ mix)
    return *np.array(draws).T, frechet_distance(source, reference).value


def test_is_within_a_tenth_of_the_spread_over_new_samples(simulation):
    values, errors, _ = simulation
    assert errors.mean() == pytest.approx(values.std(), rel=0.1)


def test_two_of_them_cover_the_truth_in_95_of_100_cases(simulation):
    values, errors, truth = simulation
    # The bias is a fifth of an error here; a binomial share of 600 has an error of 0.009.
    assert 0.92 < (abs(values - truth) < 1.96 * errors).mean() < 0.98


def test_one_dimension():
    x = random_rows(23, 1, 0)
    reference = GaussianStats(
        9, torch.tensor([2.0], dtype=torch.float64), torch.tensor([[0.49]], dtype=torch.float64)
    )
    centred = (x - x.mean()).flatten()
    influence = 2 * (x.mean() - 2) * centred + (1 - 0.7 / x.std()) * centred**2
    expected = influence.std().item() / 23**0.5
    np.testing.assert_allclose(frechet_standard_error(x, reference), expected, rtol=1e-12)


def test_equal_covariances_leave_the_error_of_the_mean():
    x = random_rows(40, 5, 0)
    stats, gap = fitted(x), torch.arange(5.0, dtype=torch.float64)
    moved = GaussianStats(40, stats.mean + gap, stats.cov)
    expected = 2 * (gap @ stats.cov @ gap / 40).sqrt().item()
    np.testing.assert_allclose(frechet_standard_error(x, moved), expected, rtol=1e-9)


def weighted_distance(weight, x, y):
    """The distance of the weighted samples, by singular values of the centred features.

    The covariance term is divided by the derivative of the unbiased covariance's factor.
    """
    correction = len(x) / (len(x) - 1)
    mean = weight @ x
    factor = (correction * weight).sqrt()[:, None] * (x - mean)
    other = (y - y.mean(dim=0)) / (len(y) - 1) ** 0.5
    spread = factor.square().sum() + other.square().sum()
    spread = spread - 2 * torch.linalg.svdvals(factor @ other.T).sum()
    return (mean - y.mean(dim=0)).square().sum() + spread / correction


@pytest.mark.parametrize(("n", "m", "d"), [(23, 31, 3), (7, 31, 11), (23, 7, 11), (7, 5, 11)])
def test_is_the_derivative_in_the_weight_of_each_sample(n, m, d):
    x, y = random_rows(n, d, 0), random_rows(m, d, 1, offset=0.5)
    even, step, influence = torch.full((n,), 1 / n, dtype=torch.float64), 1e-5, []
    for one in torch.eye(n, dtype=torch.float64):
        ends = [weighted_distance(even + s * (one - even), x, y) for s in (step, -step)]
        influence.append((ends[0] - ends[1]) / (2 * step))
    expected = torch.stack(influence).std().item() / n**0.5
    np.testing.assert_allclose(frechet_standard_error(x, y), expected, rtol=1e-6)


def test_statistics_and_features_of_the_reference_give_the_same():
    x, y = random_rows(20, 3, 0), random_rows(30, 3, 1)
    assert frechet_standard_error(x, y) == frechet_standard_error(x, fitted(y))


def test_few_rows_of_the_reference_need_no_eigenvectors_of_all_dimensions(monkeypatch):
    x, y = random_rows(20, 9, 0), random_rows(7, 9, 1)
    expected = frechet_standard_error(x, fitted(y))
    monkeypatch.setattr("genmetrics.metrics.frechet_error.eigen_factor", None)
    np.testing.assert_allclose(frechet_standard_error(x, y), expected, rtol=1e-9)


@pytest.mark.parametrize("rows", [4, 9])
def test_a_reference_that_is_not_finite_is_refused(rows):
    y = random_rows(rows, 5, 1).index_fill(0, torch.tensor([2]), torch.nan)
    with pytest.raises(NumericalFailure, match="finite"):
        frechet_standard_error(random_rows(20, 5, 0), y)


def test_features_that_never_fire_change_nothing():
    x, y = random_rows(90, 8, 0), random_rows(80, 8, 1, offset=0.2)
    dead = torch.zeros(90, 5, dtype=torch.float64)
    padded = torch.cat([dead, x], dim=1), torch.cat([dead[:80], y], dim=1)
    np.testing.assert_allclose(
        frechet_standard_error(*padded), frechet_standard_error(x, y), rtol=1e-6
    )


def test_long_sets_are_read_in_parts_without_a_difference(monkeypatch):
    x, y = random_rows(23, 3, 0), random_rows(30, 3, 1)
    whole = frechet_standard_error(x, y)
    monkeypatch.setattr("genmetrics.metrics.frechet_error._ROWS_AT_ONCE", 5)
    np.testing.assert_allclose(frechet_standard_error(x, y), whole, rtol=1e-12)


def test_two_dimensions_are_refused():
    with pytest.raises(BadInput, match="of one dimension; got 2 and 3"):
        frechet_standard_error(torch.zeros(4, 2), fitted(random_rows(5, 3, 0)))


def test_one_sample_is_refused():
    with pytest.raises(BadInput, match="at least 2 samples"):
        frechet_standard_error(torch.zeros(1, 3), random_rows(5, 3, 0))


def test_an_overflow_is_refused_and_not_returned():
    x = 1e90 * random_rows(9, 2, 0)
    with pytest.raises(NumericalFailure, match="finite standard error"):
        frechet_standard_error(x, x * 3)


def test_features_may_be_arrays():
    x, y = random_rows(40, 3, 0), random_rows(31, 3, 1)
    wanted = frechet_standard_error(x, y)
    assert frechet_standard_error(x.numpy(), y.numpy()) == wanted
    assert frechet_standard_error(x.numpy(), fitted(y)) == frechet_standard_error(x, fitted(y))
