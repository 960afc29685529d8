import math

import numpy as np
import pytest
import scipy.stats
import torch

from genmetrics import BadInput, GaussianStats, StatsAccumulator, UsageError, frechet_distance
from genmetrics.metrics.frechet_error import frechet_standard_error
from genmetrics.metrics.frechet_infinity import fd_infinity


def rows(n, d, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + offset


def fitted(x):
    return StatsAccumulator(x.shape[1]).update(x).finalize()


def test_is_the_least_squares_line_of_the_reported_points():
    x, reference = rows(100, 5, 0), fitted(rows(400, 5, 1, offset=0.4))
    found = fd_infinity(x, reference)
    line = scipy.stats.linregress(1 / np.array(found.sizes), found.values)
    np.testing.assert_allclose(found.value, line.intercept, rtol=1e-9)
    np.testing.assert_allclose(found.slope, line.slope, rtol=1e-9)
    np.testing.assert_allclose(found.r2, line.rvalue**2, rtol=1e-9)
    error = math.hypot(line.intercept_stderr, frechet_standard_error(x, reference))
    np.testing.assert_allclose(found.se, error, rtol=1e-9)


@pytest.mark.parametrize(("n", "first"), [(20, 2), (130, 13), (60_000, 5000)])
def test_sizes_run_evenly_from_a_tenth_to_all(n, first):
    sizes = fd_infinity(rows(n, 2, 0), fitted(rows(50, 2, 1)), points=5).sizes
    assert (sizes[0], sizes[-1], len(sizes)) == (first, n, 5)
    np.testing.assert_allclose(np.diff(sizes), (n - first) / 4, atol=1)


def test_the_last_point_is_the_distance_of_all_samples():
    x, reference = rows(70, 3, 0), fitted(rows(50, 3, 1))
    for repeats in (1, 4):
        last = fd_infinity(x, reference, repeats=repeats).values[-1]
        np.testing.assert_allclose(last, frechet_distance(fitted(x), reference).value, rtol=1e-9)


def test_takes_the_bias_away():
    reference = fitted(rows(100_000, 7, 0))
    found = [fd_infinity(rows(200, 7, seed, offset=0.3), reference) for seed in range(1, 41)]
    truth = frechet_distance(fitted(rows(100_000, 7, 41, offset=0.3)), reference).value
    values = np.array([each.value for each in found])
    plain = np.array([each.values[-1] for each in found])
    allowed = 4 * values.std() / len(found) ** 0.5
    assert abs(values.mean() - truth) < allowed < plain.mean() - truth


def test_its_error_is_within_a_fifth_of_the_spread_over_new_samples():
    reference = fitted(rows(4000, 3, 0))
    found = [fd_infinity(rows(200, 3, seed, offset=0.4), reference) for seed in range(1, 101)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.se for each in found]) == pytest.approx(spread, rel=0.2)


def test_the_line_holds_from_ten_samples_per_dimension_on_and_says_so():
    scales = 2 * torch.linspace(1, 20, 31, dtype=torch.float64) ** -0.7
    reference = GaussianStats(None, torch.zeros(31).double(), torch.diag(scales**2))
    truth = 31 * 0.1**2 + 0.1**2 * (scales**2).sum().item()
    errors = {}
    for n in (37, 310):
        x = [rows(n, 31, seed) * scales * 1.1 + 0.1 for seed in range(20)]
        found = [fd_infinity(each, reference) for each in x]
        bias = np.mean([each.value for each in found]) - truth
        errors[n] = abs(bias) / np.mean([each.se for each in found])
        assert [(each.reliable, each.needed) for each in found] == 20 * [(n >= 310, 310)]
    assert errors[310] < 1 < 1.7 < errors[37]


def test_repeats_steady_the_line():
    reference = fitted(rows(4000, 9, 0))
    x = rows(200, 9, 1)
    spreads = [
        np.std([fd_infinity(x, reference, repeats=repeats, seed=s).value for s in range(12)])
        for repeats in (1, 9)
    ]
    assert 0 < spreads[1] < 0.6 * spreads[0]


def test_the_same_seed_gives_the_same_and_another_seed_another():
    x, reference = rows(60, 3, 0), fitted(rows(50, 3, 1))
    assert fd_infinity(x, reference, seed=3) == fd_infinity(x, reference, seed=3)
    assert fd_infinity(x, reference, seed=3) != fd_infinity(x, reference, seed=4)


def test_constant_samples_have_a_flat_line():
    found = fd_infinity(torch.ones(30, 2), fitted(rows(50, 2, 1)))
    np.testing.assert_allclose(found.value, found.values[-1], rtol=1e-9)
    assert abs(found.slope) < 1e-9
    assert 0 <= found.r2 <= 1


def test_too_few_samples_are_refused():
    with pytest.raises(BadInput, match="at least 20 samples to extrapolate from; got 19"):
        fd_infinity(rows(19, 3, 0), fitted(rows(50, 3, 1)))


@pytest.mark.parametrize("options", [{"points": 2}, {"repeats": 0}], ids=str)
def test_too_few_points_are_refused(options):
    with pytest.raises(UsageError, match="at least 3 points and 1 repeat"):
        fd_infinity(rows(50, 3, 0), fitted(rows(50, 3, 1)), **options)


def test_features_may_be_an_array():
    x, reference = rows(100, 5, 0), fitted(rows(400, 5, 1))
    assert fd_infinity(x.numpy(), reference) == fd_infinity(x, reference)
