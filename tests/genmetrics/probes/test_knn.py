import numpy as np
import pytest
import torch

from genmetrics.errors import BadInput, NumericalFailure, UsageError
from genmetrics.probes.data import ProbeData
from genmetrics.probes.knn import knn_accuracy


def random_data(n, classes=7, d=5, seed=0, signal=1.0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return ProbeData(signal * centres[y] + torch.randn(n, d, generator=generator), y)


def brute_force(train, val, k, temperature):
    """Vote by vote, in numpy."""
    x, q = (a.x.double().numpy() for a in (train, val))
    x, q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, q))
    hits1 = hits5 = 0
    for row, label in zip(q, val.y.tolist(), strict=True):
        cosine = x @ row
        votes = {}
        for i in np.argsort(-cosine)[:k]:
            c = int(train.y[i])
            votes[c] = votes.get(c, 0.0) + np.exp(cosine[i] / temperature)
        ranked = sorted(votes, key=votes.get, reverse=True)
        hits1 += ranked[0] == label
        hits5 += label in ranked[:5]
    return hits1 / len(q), hits5 / len(q)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (11, 1.0)])
def test_accuracy_is_that_of_brute_force(k, temperature):
    train, val = random_data(103), random_data(211, seed=1)
    result = knn_accuracy(train, val, k, temperature=temperature)
    assert (result.top1, result.top5) == brute_force(train, val, k, temperature)
    assert (result.k, result.temperature, result.n_train, result.n_val) == (
        k,
        temperature,
        103,
        211,
    )


def test_weights_matter():
    # One close neighbour of class 1 against two far ones of class 0.
    train = ProbeData(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 0, 0]))
    query = ProbeData(torch.tensor([[1.0, 0.2]]), torch.tensor([1]))
    assert knn_accuracy(train, query, 3).top1 == 1.0
    assert knn_accuracy(train, query, 3, temperature=10.0).top1 == 0.0


@pytest.mark.parametrize("tile", [1, 7, 50, 1000])
def test_tiles_do_not_matter(tile):
    train, val = random_data(103), random_data(61, seed=1)
    assert knn_accuracy(train, val, 13, tile=tile) == knn_accuracy(train, val, 13)


def test_lengths_of_rows_do_not_matter():
    train, val = random_data(103), random_data(61, seed=1)
    longer = ProbeData(train.x * torch.linspace(1, 100, 103)[:, None], train.y)
    assert knn_accuracy(longer, val).top1 == knn_accuracy(train, val).top1


def test_a_class_without_votes_is_not_among_the_five():
    x = torch.eye(8)
    train = ProbeData(x, torch.arange(8))
    wrong = ProbeData(x, (torch.arange(8) + 1) % 8)
    assert knn_accuracy(train, wrong, 1).top5 == 0.0


def test_top5_of_five_classes_is_not_reported():
    data = ProbeData(torch.eye(5), torch.arange(5))
    assert knn_accuracy(data, data, 1).top5 is None


def test_shuffled_labels_give_chance():
    train, val = random_data(400, signal=3.0), random_data(2003, seed=1, signal=3.0)
    order = torch.randperm(2003, generator=torch.Generator().manual_seed(0))
    shuffled = ProbeData(val.x, val.y[order])
    assert knn_accuracy(train, val).top1 > 0.8
    assert abs(knn_accuracy(train, shuffled).top1 - 1 / 7) < 3 * (6 / 49 / 2003) ** 0.5


def test_temperatures_near_zero_do_not_overflow():
    train, val = random_data(50), random_data(31, seed=1)
    assert knn_accuracy(train, val, temperature=1e-9).top1 == knn_accuracy(train, val, 1).top1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "1 to 20 neighbours"),
        ({"k": 21}, "got 21"),
        ({"k": 2, "temperature": 0.0}, "temperature above 0"),
        ({"k": 2, "tile": 0}, "tile of at least 1"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        knn_accuracy(random_data(20), random_data(3), **options)


def test_bad_features_are_refused():
    train = random_data(20)
    with pytest.raises(BadInput, match="got 5 for training and 4 for validation"):
        knn_accuracy(train, random_data(3, d=4))
    broken = ProbeData(train.x.clone().fill_(float("inf")), train.y)
    with pytest.raises(NumericalFailure, match="validation features"):
        knn_accuracy(train, broken)
