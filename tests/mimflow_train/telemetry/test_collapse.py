import dataclasses
import random

import pytest
import torch

from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.loop import Calls, train
from mimflow_train.state import TrainState
from mimflow_train.telemetry.collapse import CollapseWarning


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


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "collapses"), [(1.0, True), (320.0, False)])
def test_the_papers_weights_collapse_at_scale_tiny_and_the_recipes_do_not(
    config, weight, collapses
):
    shades = torch.randint(0, 256, (16, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    images = MemoryImages(shades.expand(-1, -1, 16, 16).to(torch.uint8))
    split = Split(images, torch.tensor([0] * 9 + [1] * 5 + [2] * 2))
    config = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, pixel=weight, nll=1.0),
        optim=dataclasses.replace(config.optim, lr=1e-3),
        global_batch=256,
        steps=400,
    )
    messages = []
    watch, cpu = CollapseWarning(messages.append), torch.device("cpu")
    context = LocalContext(cpu, watch.look, StopRequest())
    data = LabelledImages(split, split, ("a", "b", "c"))
    train(context, config, data, state=TrainState(config, cpu), calls=Calls(400, lambda _: None))
    assert len(messages) == collapses
