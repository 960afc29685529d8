import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from genmetrics import BadInput, NumericalFailure, logistic_probe
from genmetrics.probes.logistic import tuned_logistic_probe


def blobs(counts, distance, seed=0, d=5):
    """Unit Gaussians around points on different axes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centres = distance * torch.eye(d)[: len(counts)]
    return centres[labels] + torch.randn(len(labels), d, generator=generator), labels


def test_separable_classes_are_learned_completely():
    features, labels = blobs((30, 30, 30), 20.0)
    probe = logistic_probe(features, labels)
    held_out, truth = blobs((20, 20, 20), 20.0, seed=1)
    assert probe.accuracy(held_out, truth) == probe.balanced_accuracy(held_out, truth) == 1.0


def test_shuffled_labels_give_chance_on_held_out_rows():
    features, labels = blobs((200, 200), 20.0)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    probe = logistic_probe(features, labels[order])
    held_out, truth = blobs((500, 500), 20.0, seed=1)
    shuffled = truth[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    assert abs(probe.accuracy(held_out, shuffled) - 0.5) < 3 * (0.25 / 1000) ** 0.5


def test_the_minimum_is_scipys():
    features, labels = blobs((9, 14, 6), 1.0)
    x = features.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    y = labels.numpy()

    def objective(flat):
        weight, bias = flat[:15].reshape(3, 5), flat[15:]
        logits = x @ weight.T + bias
        log_norm = np.log(np.exp(logits).sum(1))
        return (log_norm - logits[np.arange(len(y)), y]).mean() + 0.05 * (weight**2).sum()

    expected = minimize(objective, np.zeros(18), tol=1e-14).x[:15].reshape(3, 5)
    probe = logistic_probe(features, labels, l2=0.1)
    np.testing.assert_allclose(probe.weight, expected, atol=1e-5)


def test_fitting_twice_gives_the_same_bits():
    features, labels = blobs((9, 14, 6), 1.0)
    a, b = (logistic_probe(features, labels) for _ in range(2))
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.bias, b.bias)
    assert a.weight.dtype == torch.float64


def test_units_of_the_features_do_not_matter():
    features, labels = blobs((9, 14, 6), 1.0)
    features = features.double()
    scaled = features * torch.tensor([1e-3, 1.0, 1e4, 5.0, 0.2]).double() + 100
    a, b = (logistic_probe(f, labels) for f in (features, scaled))
    np.testing.assert_allclose(a.weight, b.weight, atol=1e-6)


def test_whitened_features_may_be_mapped_by_any_invertible_map():
    features, labels = blobs((40, 60, 50), 1.5)
    held_out, truth = blobs((200, 300, 250), 1.5, seed=1)
    draw = torch.Generator().manual_seed(2)
    mix = torch.linalg.qr(torch.randn(5, 5, generator=draw)).Q * torch.logspace(-3, 0, 5)
    mix = mix @ torch.randn(5, 5, generator=draw)
    mixed, held_out_mixed = (rows.double() @ mix.double() + 3 for rows in (features, held_out))
    a, b = (logistic_probe(rows, labels, whiten=True) for rows in (features, mixed))
    assert torch.equal(a.predict(held_out), b.predict(held_out_mixed))
    assert 0.6 < a.accuracy(held_out, truth) < 0.95
    plain = logistic_probe(mixed, labels)
    assert a.accuracy(held_out, truth) > plain.accuracy(held_out_mixed, truth) + 0.05


def test_whitening_leaves_out_what_has_no_variance():
    features, labels = blobs((40, 60, 50), 1.5)
    more = torch.cat([features, features[:, :1] + features[:, 1:2], torch.ones(150, 1)], dim=1)
    a, b = (logistic_probe(rows.double(), labels, whiten=True) for rows in (features, more))
    assert torch.equal(a.predict(features), b.predict(more))


def test_balanced_finds_rare_classes_that_plain_fitting_misses():
    features, labels = blobs((300, 10), 1.0)
    held_out, truth = blobs((500, 500), 1.0, seed=1)
    plain = logistic_probe(features, labels).balanced_accuracy(held_out, truth)
    balanced = logistic_probe(features, labels, balanced=True).balanced_accuracy(held_out, truth)
    assert balanced > plain + 0.1


def test_balanced_accuracy_counts_each_class_once():
    features, labels = blobs((50, 50), 20.0)
    probe = logistic_probe(features, labels)
    rows = torch.cat([features[:9], features[50:51]])
    truth = torch.tensor([0] * 9 + [0])  # the last row is of class 1
    truth[8] = 1  # and this one of class 0
    assert probe.accuracy(rows, truth) == pytest.approx(8 / 10)
    assert probe.balanced_accuracy(rows, truth) == pytest.approx((8 / 9 + 0 / 1) / 2)


def test_any_integers_may_be_labels():
    features, labels = blobs((20, 20, 20), 20.0)
    names = torch.tensor([-4, 7, 900])
    assert torch.equal(logistic_probe(features, names[labels]).predict(features), names[labels])


def test_a_class_never_trained_counts_as_missed():
    features, labels = blobs((20, 20), 20.0)
    probe = logistic_probe(features, labels)
    assert probe.balanced_accuracy(features[:2], torch.tensor([0, 5])) == 0.5


def test_constant_features_are_ignored():
    features, labels = blobs((20, 20), 20.0)
    constant = torch.full((40, 1), 0.1)
    probe = logistic_probe(torch.cat([features, constant], dim=1), labels)
    other = torch.cat([features, constant + 1], dim=1)
    assert probe.accuracy(other, labels) == 1.0


def test_works_under_no_grad():
    features, labels = blobs((20, 20), 20.0)
    with torch.no_grad():
        assert logistic_probe(features, labels).accuracy(features, labels) == 1.0


def test_one_class_is_refused():
    with pytest.raises(BadInput, match="at least 2 classes; got 1"):
        logistic_probe(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


def test_a_penalty_of_zero_is_refused():
    with pytest.raises(BadInput, match="l2 above 0; got 0"):
        logistic_probe(torch.eye(2), torch.tensor([0, 1]), l2=0.0)


def test_non_finite_features_are_refused():
    features = torch.eye(3)
    features[1, 1] = float("nan")
    with pytest.raises(NumericalFailure, match=r"rows \(1\)"):
        logistic_probe(features, torch.tensor([0, 1, 1]))


def test_scoring_nothing_is_refused():
    probe = logistic_probe(torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(BadInput, match="at least 1 row"):
        probe.accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_the_penalty_is_chosen_on_held_out_training_rows():
    features, labels = blobs((40, 40), 1.5, d=30)
    tuned = tuned_logistic_probe(features, labels)
    held_out = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:16]
    rest = torch.ones(80, dtype=torch.bool)
    rest[held_out] = False
    scores = {
        l2: logistic_probe(features[rest], labels[rest], l2=l2).accuracy(
            features[held_out], labels[held_out]
        )
        for l2 in (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    }
    assert len(set(scores.values())) > 1
    assert tuned.held_out_accuracy == max(scores.values()) == scores[tuned.l2]
    whole = logistic_probe(features, labels, l2=tuned.l2)
    np.testing.assert_allclose(tuned.probe.weight, whole.weight, atol=1e-9)


def test_too_few_rows_to_hold_out_are_refused():
    with pytest.raises(BadInput, match="at least 5 rows to hold some out; got 4"):
        tuned_logistic_probe(torch.eye(4), torch.tensor([0, 1, 0, 1]))
