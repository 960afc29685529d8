import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric

from genmetrics import BadInput, NumericalFailure, UsageError
from genmetrics.metrics.kernel_distances import cmmd, kid


def rows(n, d, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) + offset


def unbiased_mmd(x, y, kernel):
    x, y = x.double().numpy(), y.double().numpy()
    within = [
        np.mean([kernel(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j])
        for z in (x, y)
    ]
    return sum(within) - 2 * np.mean([kernel(u, v) for u in x for v in y])


def cubic(u, v):
    return (u @ v / len(u) + 1) ** 3


@pytest.mark.parametrize("tile", [3, 2000])
@pytest.mark.parametrize(("n", "m", "d"), [(11, 7, 5), (7, 11, 5), (2, 2, 3)])
def test_full_mode_is_the_mean_over_all_pairs(monkeypatch, tile, n, m, d):
    monkeypatch.setattr("genmetrics.metrics.kernel_distances._TILE", tile)
    x, y = rows(n, d, 0), rows(m, d, 1, 0.5)
    found = kid(x, y, mode="full")
    np.testing.assert_allclose(found.mean, unbiased_mmd(x, y, cubic), rtol=1e-9)
    assert (found.n_x, found.n_y, found.subsets, found.subset_size) == (n, m, 1, None)


def test_full_mode_agrees_with_torch_fidelity():
    x, y = rows(23, 7, 0), rows(23, 7, 1, 0.5)
    theirs = kernel_mmd(x.double().numpy(), y.double().numpy(), kid_kernel="poly")
    np.testing.assert_allclose(kid(x, y, mode="full").mean, theirs, rtol=1e-9)


def test_the_error_comes_from_what_each_sample_adds():
    x, y = rows(11, 5, 0), rows(7, 5, 1, 0.5)
    variance = 0.0
    sets = x.double().numpy(), y.double().numpy()
    for own, other in (sets, sets[::-1]):
        h = [
            np.mean([cubic(u, v) for j, v in enumerate(own) if i != j])
            - np.mean([cubic(u, v) for v in other])
            for i, u in enumerate(own)
        ]
        variance += 4 * np.var(h, ddof=1) / len(own)
    np.testing.assert_allclose(kid(x, y, mode="full").se, variance**0.5, rtol=1e-9)


def test_subsets_of_everything_are_the_full_mode():
    x, y = rows(23, 7, 0), rows(23, 7, 1, 0.5)
    full, subsets = kid(x, y, mode="full"), kid(x, y, subsets=3, subset_size=23)
    np.testing.assert_allclose((subsets.mean, subsets.se), (full.mean, full.se), rtol=1e-9)
    assert subsets.std < 1e-9


def test_subsets_give_the_mean_and_deviation_of_their_values():
    x, y = rows(40, 3, 0), rows(30, 3, 1, 0.5)
    found = kid(x, y, subsets=4, subset_size=20, seed=5)
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(4):
        pair = [z[torch.randperm(len(z), generator=generator)[:20]] for z in (x, y)]
        values.append(kid(*pair, mode="full").mean)
    np.testing.assert_allclose(found.mean, np.mean(values), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.std(values), rtol=1e-9)
    assert (found.subsets, found.subset_size, found.mode) == (4, 20, "subsets")
    assert found != kid(x, y, subsets=4, subset_size=20, seed=6)


def test_subsets_agree_with_torch_fidelity_up_to_the_draw():
    x, y = rows(200, 5, 0), rows(300, 5, 1, 0.3)
    theirs = kid_features_to_metric(x, y, kid_subsets=400, kid_subset_size=50, verbose=False)
    ours = kid(x, y, subsets=400, subset_size=50)
    mean, std = (theirs[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))
    assert abs(ours.mean - mean) < 4 * std * (2 / 400) ** 0.5
    assert ours.std == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (80, {"mode": "full"}),
        (80, {"subsets": 5, "subset_size": 80}),
        (80, {"subsets": 1, "subset_size": 40}),
        (160, {"subsets": 10, "subset_size": 40}),
    ],
    ids=str,
)
def test_the_error_is_the_spread_over_new_samples(n, options):
    found = [
        kid(rows(n, 4, 2 * s, 0.4), rows(n + 9, 4, 2 * s + 1), seed=s, **options)
        for s in range(150)
    ]
    spread = np.std([each.mean for each in found])
    assert 0.85 < np.mean([each.se for each in found]) / spread < 1.25


def test_equal_sources_score_zero_on_average_and_within_four_errors_each():
    found = [kid(rows(60, 4, 2 * s), rows(50, 4, 2 * s + 1), mode="full") for s in range(100)]
    values = np.array([each.mean for each in found])
    assert abs(values.mean()) < 4 * values.std() / 10
    assert min(values) < 0
    assert all(abs(each.mean) < 4 * each.se for each in found)


@pytest.mark.parametrize(("n", "m"), [(999, 1200), (1200, 999)])
def test_too_few_samples_name_the_argument(n, m):
    with pytest.raises(BadInput, match=f"got {n} and {m}. Lower subset_size"):
        kid(rows(n, 3, 0), rows(m, 3, 1))


@pytest.mark.parametrize("options", [{"subsets": 0}, {"subset_size": 1}], ids=str)
def test_too_small_subsets_are_refused(options):
    with pytest.raises(UsageError, match="at least 1 subset of at least 2"):
        kid(rows(9, 3, 0), rows(9, 3, 1), **options)


def biased_gaussian_mmd(x, y, sigma):
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x.numpy(), y.numpy()))

    def mean(u, v):
        return np.mean([[math.exp(-((a - b) @ (a - b)) / (2 * sigma**2)) for b in v] for a in u])

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("tile", [3, 2000])
@pytest.mark.parametrize("sigma", [0.5, 10.0])
def test_cmmd_is_the_biased_mean_over_all_pairs(monkeypatch, tile, sigma):
    monkeypatch.setattr("genmetrics.metrics.kernel_distances._TILE", tile)
    x, y = rows(11, 5, 0, 0.5).double(), rows(7, 5, 1).double()
    found = cmmd(x, y, sigma=sigma)
    np.testing.assert_allclose(found.value, 1000 * biased_gaussian_mmd(x, y, sigma), rtol=1e-9)
    assert (found.n_x, found.n_y) == (11, 7)


def test_cmmd_keeps_its_digits_for_sets_that_nearly_agree():
    angle = 1e-3
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(3, 1)
    y = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64).repeat(5, 1)
    expected = -2000 * math.expm1(-2 * math.sin(angle / 2) ** 2 / 100)
    np.testing.assert_allclose(cmmd(x, y).value, expected, rtol=1e-9)


def test_cmmd_of_equal_sets_is_zero_whatever_the_length_of_the_features():
    x = rows(11, 5, 0)
    assert abs(cmmd(x, x).value) < 1e-12
    assert abs(cmmd(x, 7 * x).value) < 1e-6


def test_cmmd_scales_with_its_factor_alone():
    x, y = rows(11, 5, 0), rows(7, 5, 1, 0.5)
    one, many = cmmd(x, y, scale=1.0), cmmd(x, y)
    np.testing.assert_allclose((many.value, many.se), (1000 * one.value, 1000 * one.se), rtol=1e-12)


def test_the_error_of_cmmd_is_the_spread_over_new_samples():
    found = [cmmd(rows(70, 4, 2 * s, 0.6), rows(80, 4, 2 * s + 1)) for s in range(300)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.se for each in found]) == pytest.approx(spread, rel=0.15)


def test_features_without_a_direction_are_refused():
    x = rows(9, 3, 0)
    x[4] = 0
    with pytest.raises(BadInput, match="a direction; got 0 in 1 rows"):
        cmmd(x, rows(9, 3, 1))


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_a_width_that_is_none_is_refused(sigma):
    with pytest.raises(UsageError, match="sigma above 0"):
        cmmd(rows(9, 3, 0), rows(9, 3, 1), sigma=sigma)


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_one_sample_is_refused(distance):
    with pytest.raises(BadInput, match="at least 2 samples in the second set; got 1"):
        distance(rows(9, 3, 0), rows(1, 3, 1))


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_non_finite_features_are_refused_by_row(distance):
    x = rows(9, 3, 0)
    x[2] = float("nan")
    with pytest.raises(NumericalFailure, match=r"the first set; .* 1 of 9 rows \(2\)"):
        distance(x, rows(9, 3, 1))
