import random

import pytest

from mimflow_train.collapse import CollapseWarning


def said(reports):
    """Return what is said of ``(step, rate, pixel)`` reports, and at which steps."""
    messages, steps = [], []
    watch = CollapseWarning(messages.append)
    for step, rate, pixel in reports:
        before = len(messages)
        watch.look(step, {"rate": rate, "pixel": pixel})
        steps += [step] * (len(messages) - before)
    return messages, steps


def sequence(steps, rate, pixel):
    """Reports every ten steps with 2 % of noise on the pixel loss."""
    draw = random.Random(0)
    return [(s, rate(s), pixel(s) * (1 + draw.gauss(0, 0.02))) for s in range(10, steps + 1, 10)]


def test_collapsed_run_is_called_so_once():
    messages, _ = said(sequence(2000, lambda _: 0.001, lambda _: 0.05))
    assert len(messages) == 1
    assert "rate has been below 0.02" in messages[0]
    assert "(now 0.001)" in messages[0]


def test_nothing_is_said_before_two_hundred_steps():
    assert said([(step, 0.001, 0.05) for step in range(10, 410, 10)])[1] == [210]


def test_healthy_run_is_not_called_collapsed():
    # The rate comes after the pixels, which stand still in the end.
    reports = sequence(2000, lambda s: 0.01 if s < 300 else 0.3, lambda s: 0.05 + 0.1 * 0.99**s)
    assert said(reports)[0] == []


def test_low_rate_with_an_improving_reconstruction_is_no_collapse():
    assert said(sequence(400, lambda _: 0.01, lambda s: 0.1 * 0.997**s))[0] == []


def test_still_reconstruction_with_a_rate_is_no_collapse():
    assert said(sequence(2000, lambda _: 0.3, lambda _: 0.05))[0] == []


def test_a_report_above_the_bound_starts_the_count_again():
    rates = {200: 0.03}
    reports = [(step, rates.get(step, 0.001), 0.05) for step in range(10, 800, 10)]
    assert said(reports)[1] == [410]


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_rate_that_is_not_finite_is_no_collapse(rate):
    assert said([(step, rate, 0.05) for step in range(10, 800, 10)])[0] == []


def test_decoder_phase_has_no_rate_to_judge():
    messages = []
    watch = CollapseWarning(messages.append)
    for step in range(10, 800, 10):
        watch.look(step, {"pixel": 0.05, "gan": 0.1})
    assert messages == []
