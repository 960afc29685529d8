import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_isc import isc_features_to_metric

from genmetrics import BadInput, NumericalFailure, UsageError
from genmetrics.metrics.class_scores import inception_score


def random_logits(n, c, seed, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, c, generator=generator)


def class_sorted(num_classes, per_class, confidence):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_classes * per_class, num_classes, generator=generator)
    rows = torch.arange(len(logits))
    logits[rows, rows // per_class] += confidence
    return logits


def score_of_one_chunk(logits):
    prob = scipy.special.softmax(logits.double().numpy(), axis=1)
    return np.exp(np.mean([scipy.stats.entropy(p, prob.mean(axis=0)) for p in prob]))


@pytest.mark.parametrize(("n", "chunk"), [(23, 7), (21, 7), (5, 100), (6, 2)])
def test_chunks_follow_the_file_and_a_shorter_last_one_counts_the_same(n, chunk):
    logits = random_logits(n, 11, 0)
    scores = [score_of_one_chunk(part) for part in logits.split(chunk)]
    found = inception_score(logits, chunk=chunk)
    np.testing.assert_allclose(found.file_order_mean, np.mean(scores), rtol=1e-9)
    assert (found.n, found.chunk, found.num_chunks) == (n, chunk, len(scores))


@pytest.mark.parametrize(("n", "chunk", "sizes"), [(22, 7, (7, 7, 8)), (8, 7, (8,)), (3, 2, (3,))])
def test_a_last_chunk_of_one_sample_joins_the_one_before(n, chunk, sizes):
    logits = random_logits(n, 11, 0)
    found = inception_score(logits, chunk=chunk)
    in_file_order = [score_of_one_chunk(part) for part in logits.split(sizes)]
    np.testing.assert_allclose(found.file_order_mean, np.mean(in_file_order), rtol=1e-9)
    shuffled = logits[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    scores = [score_of_one_chunk(part) for part in shuffled.split(sizes)]
    np.testing.assert_allclose(found.mean, np.mean(scores), rtol=1e-9)
    assert (found.chunk, found.num_chunks) == (chunk, len(sizes))


def test_the_headline_is_the_same_of_the_samples_in_a_seeded_order():
    logits = random_logits(23, 11, 0)
    found = inception_score(logits, chunk=7, shuffle_seed=5)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(5))
    scores = [score_of_one_chunk(part) for part in logits[order].split(7)]
    np.testing.assert_allclose(found.mean, np.mean(scores), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.std(scores), rtol=1e-9)
    assert found != inception_score(logits, chunk=7, shuffle_seed=6)


def test_the_single_split_takes_all_samples_at_once():
    logits = random_logits(23, 11, 0)
    expected = score_of_one_chunk(logits)
    np.testing.assert_allclose(inception_score(logits, chunk=7).single_split, expected, rtol=1e-9)


def test_agrees_with_torch_fidelity():
    logits = random_logits(40, 13, 0)
    theirs = isc_features_to_metric(logits, splits=5, shuffle=False)["inception_score_mean"]
    np.testing.assert_allclose(inception_score(logits, chunk=8).file_order_mean, theirs, rtol=1e-9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(2, 40), c=st.integers(1, 9), chunk=st.integers(2, 50), seed=st.integers(0, 100)
)
def test_lies_between_one_and_the_number_of_classes(n, c, chunk, seed):
    found = inception_score(random_logits(n, c, seed, scale=9.0), chunk=chunk)
    assert 1 <= found.mean <= c + 1e-9
    assert 1 <= found.file_order_mean <= c + 1e-9


@pytest.mark.parametrize("chunk", [100, 1000], ids=["four chunks", "one chunk"])
def test_the_error_is_the_spread_over_new_samples(chunk):
    found = [inception_score(random_logits(400, 7, seed), chunk=chunk) for seed in range(100)]
    spread = np.std([each.mean for each in found], ddof=1)
    assert np.mean([each.se for each in found]) == pytest.approx(spread, rel=0.2)


def test_images_that_say_nothing_score_one():
    found = inception_score(torch.zeros(20, 7), chunk=6)
    assert (found.mean, found.file_order_mean, found.single_split) == pytest.approx((1, 1, 1))


def test_sure_and_even_predictions_score_the_number_of_classes():
    found = inception_score(1e4 * torch.eye(7).repeat(6, 1), chunk=100)  # float32 has 0 * log 0
    assert (found.mean, found.single_split) == pytest.approx((7, 7), abs=1e-9)


def test_one_chunk_has_no_deviation():
    found = inception_score(random_logits(23, 11, 0))
    assert found.std is None
    np.testing.assert_allclose(found.mean, found.file_order_mean, rtol=1e-9)
    assert not found.order_matters


def test_samples_sorted_by_class_lose_three_quarters_in_file_order():
    """50 samples of each of 1000 classes, in chunks of 5000."""
    found = inception_score(class_sorted(1000, 50, 9.0))
    scores = (found.file_order_mean, found.mean, found.single_split)
    assert scores == pytest.approx((41, 158, 168), rel=0.02)
    assert found.order_matters


def test_the_headline_hardly_depends_on_the_order_of_the_file():
    logits = class_sorted(100, 50, 6.0)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    in_order, mixed = inception_score(logits, chunk=500), inception_score(logits[order], chunk=500)
    assert in_order.mean == pytest.approx(mixed.mean, rel=0.01)
    assert in_order.order_matters
    assert not mixed.order_matters


def test_values_out_of_float32_range_of_the_softmax_give_no_nan():
    logits = torch.tensor([[300.0, -300.0, 0.0], [-300.0, 300.0, 0.0]])
    np.testing.assert_allclose(inception_score(logits).mean, 2.0, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 0])
def test_less_than_two_samples_are_refused(n):
    with pytest.raises(BadInput, match=f"at least 2 samples; got {n}"):
        inception_score(torch.zeros(n, 4))


@pytest.mark.parametrize("chunk", [1, 0, -5])
def test_chunks_of_less_than_two_are_refused(chunk):
    with pytest.raises(UsageError, match=f"at least 2; got {chunk}"):
        inception_score(torch.zeros(9, 4), chunk=chunk)


def test_non_finite_logits_are_refused_by_row():
    logits = torch.zeros(9, 4)
    logits[3, 1] = float("inf")
    with pytest.raises(NumericalFailure, match=r"finite logits; .* 1 of 9 rows \(3\)"):
        inception_score(logits)
