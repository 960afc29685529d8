import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmetrics import (
    BadInput,
    GaussianStats,
    NumericalFailure,
    StatsAccumulator,
    frechet_distance,
    frechet_distance_from_features,
)

few = settings(max_examples=25, deadline=None, derandomize=True)
dims = st.integers(1, 24)
seeds = st.integers(0, 1000)
MANY = 10**6


def gaussian(mean, cov, n=MANY):
    mean, cov = (torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (mean, cov))
    return GaussianStats(n, mean, cov)


def random_gaussian(d, seed, n=MANY):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d + 5))
    return gaussian(rng.normal(size=d), factor @ factor.T / d, n)


def random_rows(n, d, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + offset


def fitted(x):
    return StatsAccumulator(x.shape[1]).update(x).finalize()


def distance_by_sqrtm(a, b):
    root = scipy.linalg.sqrtm(a.cov.numpy() @ b.cov.numpy())
    gap = (a.mean - b.mean).numpy()
    return gap @ gap + np.trace(a.cov.numpy() + b.cov.numpy() - 2 * root.real)


def distance_by_nuclear_norm(x, y):
    """Independent of how many rows there are: singular values of the product of QR factors."""
    factors = []
    for z in (x.numpy(), y.numpy()):
        factors.append(np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r"))
    norm = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    gap = x.mean(0).numpy() - y.mean(0).numpy()
    return gap @ gap + sum((f**2).sum() for f in factors) - 2 * norm


@few
@given(d=dims, shift=st.floats(0, 3), ratio=st.floats(0.1, 5))
def test_isotropic_gaussians(d, shift, ratio):
    a = gaussian(np.zeros(d), np.eye(d))
    b = gaussian(np.full(d, shift), ratio**2 * np.eye(d))
    result = frechet_distance(a, b)
    np.testing.assert_allclose(result.mean_term, d * shift**2, atol=1e-9)
    np.testing.assert_allclose(result.covariance_term, d * (1 - ratio) ** 2, atol=1e-9)
    assert result.value == result.mean_term + result.covariance_term


@few
@given(d=dims, seed=seeds)
def test_commuting_covariances(d, seed):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    p, q = rng.uniform(0.1, 4, size=(2, d))
    a = gaussian(np.zeros(d), basis * p @ basis.T)
    b = gaussian(np.zeros(d), basis * q @ basis.T)
    expected = ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(a, b).value, expected, atol=1e-9)


def test_one_dimension():
    a, b = gaussian([1.0], [[4.0]]), gaussian([-2.0], [[0.25]])
    np.testing.assert_allclose(frechet_distance(a, b).value, 9 + (2 - 0.5) ** 2, atol=1e-12)


@few
@given(d=dims, seed=seeds)
def test_agrees_with_scipy_sqrtm(d, seed):
    a, b = random_gaussian(d, seed), random_gaussian(d, seed + 1)
    value = frechet_distance(a, b).value
    np.testing.assert_allclose(value, distance_by_sqrtm(a, b), rtol=1e-9, atol=1e-9)


@few
@given(d=dims, seed=seeds)
def test_distance_to_itself_is_zero(d, seed):
    a = random_gaussian(d, seed)
    assert 0 <= frechet_distance(a, a).value <= 1e-9 * a.cov.trace().item()


@few
@given(d=dims, seed=seeds)
def test_is_symmetric(d, seed):
    a, b = random_gaussian(d, seed), random_gaussian(d, seed + 1)
    forth, back = frechet_distance(a, b), frechet_distance(b, a)
    np.testing.assert_allclose(forth.value, back.value, rtol=1e-9, atol=1e-9)


@few
@given(d=dims, seed=seeds)
def test_ignores_rotation_and_translation(d, seed):
    a, b = random_gaussian(d, seed), random_gaussian(d, seed + 1)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    moved = [gaussian(turn @ s.mean.numpy() + 7, turn @ s.cov.numpy() @ turn.T) for s in (a, b)]
    np.testing.assert_allclose(
        frechet_distance(*moved).value, frechet_distance(a, b).value, rtol=1e-9, atol=1e-9
    )


def test_grows_with_the_square_of_the_scale():
    x, y = random_rows(40, 3, 0), random_rows(30, 3, 1, offset=0.5)
    once, thrice = (frechet_distance_from_features(c * x, c * y).value for c in (1, 3))
    np.testing.assert_allclose(thrice, 9 * once, rtol=1e-9)


COUNTS = [(5, 7, 11), (40, 7, 11), (7, 40, 11), (40, 50, 11), (11, 12, 11), (12, 11, 11), (2, 2, 3)]


@pytest.mark.parametrize(("n", "m", "d"), COUNTS, ids=str)
def test_features_give_the_nuclear_norm_at_any_count(n, m, d):
    x, y = random_rows(n, d, 0), random_rows(m, d, 1, offset=0.3)
    result = frechet_distance_from_features(x, y)
    np.testing.assert_allclose(result.value, distance_by_nuclear_norm(x, y), rtol=1e-9)
    assert (result.n_a, result.n_b) == (n, m)
    assert result.rank_deficient == (min(n, m) <= d)


@pytest.mark.parametrize(("n", "m", "d"), COUNTS, ids=str)
def test_statistics_give_the_nuclear_norm_at_any_count(n, m, d):
    x, y = random_rows(n, d, 0), random_rows(m, d, 1, offset=0.3)
    result = frechet_distance(fitted(x), fitted(y))
    np.testing.assert_allclose(result.value, distance_by_nuclear_norm(x, y), rtol=1e-9)
    assert result.rank_deficient == (min(n, m) <= d)


def test_one_rank_deficient_side_is_exact_to_nine_digits():
    x, y = random_rows(20, 60, 0), random_rows(400, 60, 1)
    expected = distance_by_nuclear_norm(x, y)
    np.testing.assert_allclose(frechet_distance(fitted(x), fitted(y)).value, expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(fitted(y), fitted(x)).value, expected, rtol=1e-9)


def steep_rows(n, seed, d=97):
    """Like Inception features: a spectrum over seven decades, slightly rotated by the seed."""
    rng = np.random.default_rng(seed)
    i = np.arange(1, d + 1)
    scale = np.sqrt(9 * i**-0.7 * np.exp(-i / 8))
    turn = np.linalg.qr(np.eye(d) + 0.01 * rng.normal(size=(d, d)))[0]
    return torch.from_numpy(rng.normal(size=(n, d)) * scale @ turn)


@pytest.mark.parametrize(
    ("n", "m"),
    [(1000, 1100), (31, 37), (31, 1100), (1000, 37)],
    ids=["full", "few", "mixed", "turned"],
)
def test_a_steep_spectrum_costs_no_digits(n, m):
    x, y = steep_rows(n, 0), steep_rows(m, 1)
    expected = distance_by_nuclear_norm(x, y)
    np.testing.assert_allclose(frechet_distance(fitted(x), fitted(y)).value, expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance_from_features(x, y).value, expected, rtol=1e-9)


def test_features_that_never_fire_cost_no_digits():
    x, y = random_rows(90, 8, 0), random_rows(80, 8, 1)
    expected = frechet_distance_from_features(x, y).value
    dead = torch.zeros(90, 5, dtype=torch.float64)
    value = frechet_distance_from_features(
        torch.cat([dead, x], dim=1), torch.cat([dead[:80], y], dim=1)
    ).value
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_constant_features_differ_by_their_means_only():
    x = torch.ones(9, 4)
    assert frechet_distance_from_features(x, 3 * x).value == pytest.approx(16)


@pytest.mark.parametrize("n", [5, 50])
def test_shuffling_the_samples_changes_nothing(n):
    x, y = random_rows(n, 8, 0), random_rows(n, 8, 1)
    shuffled = x[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    np.testing.assert_allclose(
        frechet_distance_from_features(shuffled, y).value,
        frechet_distance_from_features(x, y).value,
        rtol=1e-9,
    )


def test_two_dimensions_are_refused():
    with pytest.raises(BadInput, match="of one dimension; got 2 and 3"):
        frechet_distance(random_gaussian(2, 0), random_gaussian(3, 0))


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_are_refused(n):
    with pytest.raises(BadInput, match=f"at least 2 samples in the second set; got {n}"):
        frechet_distance_from_features(torch.zeros(3, 4), torch.zeros(n, 4))


def test_non_finite_features_are_refused_by_row():
    x = torch.zeros(4, 3)
    x[2] = float("nan")
    with pytest.raises(NumericalFailure, match=r"the first set; .* 1 of 4 rows \(2\)"):
        frechet_distance_from_features(x, torch.zeros(4, 3))


def test_an_overflow_is_refused_and_not_returned():
    x = torch.full((3, 2), 1e200, dtype=torch.float64)
    with pytest.raises(NumericalFailure, match="overflow"):
        frechet_distance_from_features(x, -x)


def test_a_covariance_that_is_none_is_refused():
    wrong = gaussian(np.zeros(2), [[1.0, 3.0], [3.0, 1.0]])
    with pytest.raises(NumericalFailure, match="symmetric and positive"):
        frechet_distance(wrong, wrong)
