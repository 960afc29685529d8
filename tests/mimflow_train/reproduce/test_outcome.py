"""Whether a claim's order is there is said with the spread of the seeds."""

import pytest

from mimflow_train.reproduce.design import Claim
from mimflow_train.reproduce.outcome import Row, verdict

LESS = Claim(text="", metric="gfid", better="a", worse="b")
MORE = Claim(text="", metric="accuracy", better="a", worse="b")


def rows(metric, a, b):
    return (Row(label="a", ours={metric: a}), Row(label="b", ours={metric: b}))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((5.0, 6.0, 7.0), (9.0, 10.1, 11.0), "holds"),
        ((9.0, 10.1, 11.0), (5.0, 6.0, 7.0), "does not hold"),
        ((5.0, 9.0, 7.0), (6.0, 8.0, 9.0), "within the spread"),
        ((5.0,), (6.0,), "one seed: the paper's order"),
        ((6.0,), (5.0,), "one seed: not the paper's order"),
        ((), (5.0,), "not run"),
    ],
)
def test_a_distance_should_be_smaller(a, b, words):
    assert verdict(LESS, rows("gfid", a, b)).startswith(words)


def test_an_accuracy_should_be_larger():
    assert verdict(MORE, rows("accuracy", (0.5, 0.6), (0.3, 0.4001))).startswith("holds")


def test_two_seeds_need_a_larger_difference_than_many():
    gains = [1.0, 3.0]
    assert verdict(MORE, rows("accuracy", gains, [0.0, 0.0])).startswith("within the spread")
    many = verdict(MORE, rows("accuracy", gains * 3, [0.0] * 6))
    assert many.startswith("holds: difference +2 +- 1.1 over 6 seeds")


def test_the_difference_is_seed_by_seed():
    a, b = (1.0, 5.0, 9.0), (2.0, 6.0, 10.001)
    assert verdict(LESS, rows("gfid", a, b)).startswith("holds: difference -1")
