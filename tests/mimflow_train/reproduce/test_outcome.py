"""Whether a claim's order is there is said with the spread of the seeds."""

from math import inf, nan

import pytest

from mimflow_train.reproduce.design import Claim
from mimflow_train.reproduce.outcome import Row, mean_and_spread, verdict

LESS = Claim("", "gfid", "a", "b")
MORE = Claim("", "accuracy", "a", "b")


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
        ((5.0,), (5.0,), "one seed: equal, difference +0, spread unknown"),
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


def test_a_diverged_seed_is_named_and_the_others_are_compared():
    a = Row(label="a", ours={"gfid": (5.0, nan, 7.0)}, diverged=(1,))
    b = Row(label="b", ours={"gfid": (9.0, 10.0, 11.1)})
    found = verdict(LESS, (a, b))
    assert found.startswith("diverged: `a` diverged at seed 1; over the other seeds holds: ")
    assert "over 2 seeds" in found


def test_a_seed_whose_scores_overflowed_did_not_diverge():
    whole = Row(label="a", ours={"gfid": (5.0, 6.0, 7.0)})
    b = Row(label="b", ours={"gfid": (nan, 7.0, nan)}, overflowed=(0, 2))
    found = verdict(LESS, (whole, b))
    assert found.startswith("overflowed: `b` overflowed at seed 0, 2; over the other seeds one ")
    assert verdict(LESS, (whole, Row(label="b", overflowed=(0,)))).endswith("at seed 0")
    both = Row(label="b", diverged=(1,), overflowed=(0, 2))
    assert verdict(LESS, (whole, both)) == (
        "diverged: `b` diverged at seed 1 and overflowed at seed 0, 2"
    )


def test_a_row_that_always_diverged_has_no_order():
    a, b = Row(label="a", ours={"gfid": (5.0, 6.0)}), Row(label="b", diverged=(0, 1))
    assert verdict(LESS, (a, b)) == "diverged: `b` diverged at seed 0, 1"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ({"ours": {"gfid": (1.0,)}}, {"diverged": (0,)}, "holds: `b` diverged at seed 0"),
        (
            {"ours": {"gfid": (1.0, 2.0)}},
            {"ours": {"gfid": (nan, 1.0)}, "diverged": (0,)},
            "holds in part: `b` diverged at seed 0",
        ),
        (
            {"ours": {"gfid": (1.0, 2.0)}},
            {"diverged": (0,), "overflowed": (1,)},
            "holds in part: `b` diverged at seed 0 and overflowed at seed 1",
        ),
        ({"ours": {"gfid": (1.0,)}}, {"overflowed": (0,)}, "does not hold: `b` did not diverge"),
        ({"diverged": (0,)}, {"diverged": (0,)}, "both diverged: "),
        ({"diverged": (0,)}, {"ours": {"gfid": (1.0,)}}, "does not hold: `b` did not diverge"),
        ({"ours": {"gfid": (1.0,)}}, {"why_not": "another scale"}, "not run"),
    ],
)
def test_that_training_collapses_is_a_claim(a, b, words):
    claim = Claim("", "diverged", "a", "b")
    assert verdict(claim, (Row(label="a", **a), Row(label="b", **b))).startswith(words)


def test_an_infinite_number_has_an_order_and_no_spread():
    found = verdict(LESS, rows("gfid", (5.0, inf), (inf, inf)))
    assert found == "unresolved: infinite numbers; the paper's order in 1 of 2 seeds"
    assert mean_and_spread([1.0, inf]) == (inf, None)


def test_a_run_without_the_metric_was_run_all_the_same():
    assert verdict(MORE, rows("gfid", (5.0,), (6.0,))) == "not measured"


def test_a_cost_is_not_of_a_seed():
    claim = Claim("", "memory_gb", "a", "b")
    found = verdict(claim, rows("memory_gb", (1.0,), (2.0,)))
    assert found.startswith("one measurement: the paper's order")
