from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmetrics import (
    BadInput,
    GaussianStats,
    NumericalFailure,
    StatsAccumulator,
    frechet_distance,
)
from genmetrics.features.stats import IncompatibleStats, merge_stats, require_compatible


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


def test_statistics_of_unknown_count_have_full_rank():
    stats = GaussianStats(None, torch.zeros(3).double(), torch.eye(3).double())
    assert stats.rank_bound == 3
    assert stats.meta == {}
    assert frechet_distance(stats, stats).rank_deficient is False
    few = GaussianStats(3, stats.mean, stats.cov)
    for pair in ((stats, few), (few, stats)):
        result = frechet_distance(*pair)
        assert result.rank_deficient
        assert (result.n_a, result.n_b) == tuple(side.n for side in pair)


def shuffled_sum(x, seed, exact):
    """Sum in random order, batches and shards, merged in a random order."""
    generator = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=generator)]
    shards = []
    for shard in x.tensor_split(1 + int(torch.randint(5, (), generator=generator))):
        accumulator = StatsAccumulator(x.shape[1], exact=exact)
        for batch in shard.tensor_split(1 + int(torch.randint(4, (), generator=generator))):
            accumulator.update(batch)
        shards.append(accumulator)
    first, *rest = (shards[i] for i in torch.randperm(len(shards), generator=generator).tolist())
    for other in rest:
        first.merge(other)
    return first.finalize()


def test_exact_sums_have_the_same_bits_in_any_order_and_sharding():
    x = rows(5003, 7, offset=3.0).float()
    expected = StatsAccumulator(7, exact=True).update(x).finalize()
    for seed in range(12):
        found = shuffled_sum(x, seed, exact=True)
        assert found.n == 5003
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.cov, expected.cov)


def test_plain_sums_do_not_have_the_same_bits():
    x = rows(5003, 7, offset=3.0).float()
    expected = StatsAccumulator(7).update(x).finalize()
    found = shuffled_sum(x, 1, exact=False)
    assert not torch.equal(found.cov, expected.cov)
    torch.testing.assert_close(found.cov, expected.cov, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)


def test_exact_sums_are_those_of_the_rounded_features():
    x = rows(601, 3, offset=20.0)
    rounded = (x * 2**14).round() / 2**14
    stats = StatsAccumulator(3, exact=True).update(x).finalize()
    np.testing.assert_allclose(stats.mean, rounded.mean(0), rtol=1e-15)
    expected = np.cov(rounded.numpy(), rowvar=False)
    np.testing.assert_allclose(stats.cov, expected, rtol=1e-11, atol=1e-12)
    assert not np.allclose(stats.mean, x.mean(0), rtol=1e-9)


def whole_number_covariance(steps):
    """Covariance of grid steps, from Python's integers."""
    n, columns = len(steps), list(zip(*steps, strict=True))
    sums = [sum(column) for column in columns]
    return [
        [
            (n * sum(a * b for a, b in zip(p, q, strict=True)) - s * t) / (n * (n - 1)) / 2**28
            for q, t in zip(columns, sums, strict=True)
        ]
        for p, s in zip(columns, sums, strict=True)
    ]


def test_exact_sums_hold_at_the_edge_of_their_range():
    largest = 2**20 - 1
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (9001, 2), generator=generator) * 2 - 1
    steps = (signs * largest).tolist()
    for index in range(0, 9001, 3):
        steps[index][1] -= steps[index][1] // largest  # off the edge by one, of odd parity
    x = torch.tensor(steps, dtype=torch.float64) / 2**14
    stats = StatsAccumulator(2, exact=True).update(x).finalize()
    np.testing.assert_allclose(stats.cov, whole_number_covariance(steps), rtol=1e-15)
    torch.testing.assert_close(stats.mean, x.mean(0), rtol=1e-9, atol=0)


def test_exact_sums_keep_a_small_spread_around_a_large_mean():
    steps = [[2**20 - 1 - (index % 3), index % 2] for index in range(4999)]
    x = torch.tensor(steps, dtype=torch.float64) / 2**14
    stats = StatsAccumulator(2, exact=True).update(x).finalize()
    np.testing.assert_allclose(stats.cov, whole_number_covariance(steps), rtol=1e-14)


@pytest.mark.parametrize("value", [64.0, -64.0, 1e9])
def test_exact_sums_refuse_features_beyond_their_range(value):
    accumulator = StatsAccumulator(1, exact=True)
    accumulator.update(torch.tensor([[64 - 2.0**-14]]))
    with pytest.raises(BadInput, match="features below 64 in magnitude"):
        accumulator.update(torch.tensor([[value]]))


def test_exact_sums_refuse_too_many_rows():
    ones = StatsAccumulator(1, exact=True).update(torch.full((4096, 1), 64 - 2.0**-14).double())
    for _ in range(11):
        ones.merge(ones)
    assert ones.finalize().n == 2**23
    assert ones.finalize().mean.item() == 64 - 2.0**-14
    assert ones.finalize().cov.item() == 0.0
    with pytest.raises(BadInput, match="at most 8388608 rows for exact sums; got 8388609"):
        ones.update(torch.zeros(1, 1))
    with pytest.raises(BadInput, match="at most 8388608 rows"):
        ones.merge(ones)


def test_the_largest_exact_scatter_does_not_overflow():
    edge = 64 - 2.0**-14
    pair = StatsAccumulator(2, exact=True)
    pair.update(torch.tensor([[edge, -edge], [-edge, edge]], dtype=torch.float64).repeat(2048, 1))
    for _ in range(11):
        pair.merge(pair)
    n, square = 2**23, edge**2
    expected = [[square, -square], [-square, square]]
    np.testing.assert_allclose(pair.finalize().cov, np.array(expected) * n / (n - 1), rtol=1e-15)


@pytest.mark.parametrize("exact", [False, True])
def test_an_empty_accumulator_merges_to_nothing(exact):
    x = rows(9, 2)
    alone = StatsAccumulator(2, exact=exact).update(x).finalize()
    empty = StatsAccumulator(2, exact=exact)
    for merged in (
        StatsAccumulator(2, exact=exact).update(x).merge(empty),
        StatsAccumulator(2, exact=exact).merge(empty).update(x),
    ):
        assert torch.equal(merged.finalize().cov, alone.cov)


@pytest.mark.parametrize(
    "other", [StatsAccumulator(3), StatsAccumulator(2, exact=True)], ids=["dim", "exact"]
)
def test_accumulators_of_another_kind_are_refused(other):
    with pytest.raises(BadInput, match="accumulators of one kind"):
        StatsAccumulator(2).merge(other)


def part(x, **meta):
    return replace(StatsAccumulator(x.shape[1]).update(x).finalize(), meta=meta)


def test_merged_statistics_are_those_of_all_rows():
    x = rows(31, 5, offset=100.0)
    merged = merge_stats([part(rows) for rows in x.split([2, 17, 5, 7])])
    expected = part(x)
    assert merged.n == 31
    torch.testing.assert_close(merged.mean, expected.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.cov, expected.cov, rtol=1e-10, atol=1e-11)


def test_merging_keeps_what_the_parts_agree_on():
    x = rows(8, 2)
    a, b = part(x, extractor="a", source="one"), part(x, extractor="a", source="two", split="val")
    merged = merge_stats([a, b], force=True)  # of the same rows
    assert {key: merged.meta[key] for key in merged.meta if key != "parts"} == {"extractor": "a"}
    assert merge_stats([b]).meta == b.meta


@pytest.mark.parametrize("key", ["extractor", "weights_sha256", "preprocess_id", "output"])
def test_statistics_of_other_features_need_force(key):
    a, b = part(rows(5, 2), **{key: "this"}), part(rows(5, 2), **{key: "that"})
    for call in (
        lambda force: require_compatible(a, b, force=force),
        lambda force: merge_stats([a, b], force=force),
    ):
        with pytest.raises(IncompatibleStats, match=f"one {key}; got this and that"):
            call(False)
        call(True)
    require_compatible(a, part(rows(5, 2)))


def test_statistics_of_other_dimension_cannot_be_forced():
    with pytest.raises(IncompatibleStats, match="one dimension; got 2 and 3"):
        merge_stats([part(rows(5, 2)), part(rows(5, 3))], force=True)


def test_statistics_of_unknown_count_cannot_be_merged():
    known = part(rows(5, 2))
    with pytest.raises(BadInput, match="known number of samples"):
        merge_stats([known, replace(known, n=None)])
    with pytest.raises(BadInput, match="got none"):
        merge_stats([])
