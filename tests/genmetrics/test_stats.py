import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmetrics import BadInput, GaussianStats, NumericalFailure, StatsAccumulator


def rows(n, d, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + offset


@settings(max_examples=20, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 7), min_size=2, max_size=5), d=st.integers(1, 5))
def test_batches_of_any_size_give_numpy_cov(sizes, d):
    x = rows(sum(sizes) + 2, d, offset=1000.0)
    accumulator = StatsAccumulator(d)
    for batch in x.split([*sizes, 2]):
        accumulator.update(batch)
    stats = accumulator.finalize()
    assert stats.n == len(x)
    np.testing.assert_allclose(stats.mean, x.mean(0), rtol=1e-12)
    expected = np.cov(x.numpy(), rowvar=False).reshape(d, d)
    np.testing.assert_allclose(stats.cov, expected, rtol=1e-9, atol=1e-9)


def test_many_rows_in_one_update_give_numpy_cov():
    x = rows(5000, 3)
    stats = StatsAccumulator(3).update(x).finalize()
    np.testing.assert_allclose(stats.cov, np.cov(x.numpy(), rowvar=False), atol=1e-12)


def test_float32_features_are_summed_in_float64():
    x = rows(50, 3, offset=3000.0).float()
    stats = StatsAccumulator(3).update(x).finalize()
    assert stats.cov.dtype == stats.mean.dtype == torch.float64
    np.testing.assert_allclose(stats.cov, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)


def test_finalize_leaves_the_accumulator_usable():
    x = rows(9, 2)
    accumulator = StatsAccumulator(2).update(x[:4])
    early = accumulator.finalize()
    mean = early.mean.clone()
    accumulator.update(x[4:])
    torch.testing.assert_close(early.mean, mean, rtol=0, atol=0)
    torch.testing.assert_close(accumulator.finalize().mean, x.mean(0))


def test_one_sample_is_refused():
    with pytest.raises(BadInput, match="at least 2 samples for a covariance; got 1"):
        StatsAccumulator(2).update(torch.zeros(1, 2)).finalize()


def test_features_of_another_width_are_refused():
    with pytest.raises(BadInput, match="features of 2 numbers; got 3"):
        StatsAccumulator(2).update(torch.zeros(1, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_features_are_refused_by_row(value):
    x = torch.zeros(9, 2)
    x[3, 1] = x[7, 0] = value
    with pytest.raises(NumericalFailure, match=r"in 2 of 9 rows \(3, 7\)"):
        StatsAccumulator(2).update(x)


def test_non_finite_statistics_are_refused():
    nan = torch.full((2,), float("nan"), dtype=torch.float64)
    with pytest.raises(BadInput, match="finite mean and covariance"):
        GaussianStats(9, nan, torch.eye(2, dtype=torch.float64))
