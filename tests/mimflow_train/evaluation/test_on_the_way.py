"""Held-out images on the way: the same ones each time, and no word of them in training."""

import math

import pytest
import torch

from mimflow_train.config.overrides import override
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import DataError
from mimflow_train.evaluation import on_the_way
from mimflow_train.evaluation.on_the_way import HeldOut, held_out_values
from mimflow_train.loop import Calls, train
from mimflow_train.plan import Plan
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import snapshot

CPU = torch.device("cpu")


def test_values_are_those_of_the_same_images_each_time(config, data):
    model = TrainState(config, CPU).ema
    found = held_out_values(model, config, data.held_out)
    assert found == held_out_values(model, config, data.held_out)
    assert math.isfinite(found["held_out_nll"])
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.add_(0.1)
    worse = held_out_values(model, config, data.held_out)
    assert worse["held_out_psnr"] < found["held_out_psnr"]
    assert worse["held_out_nll"] == found["held_out_nll"]


def test_at_most_256_images_are_looked_at(config, data, monkeypatch):
    monkeypatch.setattr(on_the_way, "_MOST", 3)
    model, seen = TrainState(config, CPU).ema, []
    encode = on_the_way.encode
    monkeypatch.setattr(
        on_the_way,
        "encode",
        lambda model, config, images, stream: (
            seen.append(len(images)) or encode(model, config, images, stream)
        ),
    )
    held_out_values(model, config, data.held_out)
    assert seen == [3]


def test_reports_of_planned_checkpoints_hold_them_and_training_is_the_same(config, data):
    config = override(config, ["steps=20"])

    def run(every, **judge):
        state, reports = TrainState(config, CPU), {}
        context = LocalContext(CPU, lambda *line: reports.update([line]), StopRequest())
        train(context, config, data, state=state, calls=Calls(every, lambda _: None, **judge))
        return state, reports

    state, reports = run(10)
    assert "held_out_nll" not in reports[20]
    assert reports[20]["learning_rate"] == pytest.approx(state.learning_rate)
    plain = snapshot(state).tensors
    for every, wanted in ((10, [10, 20]), (20, [20]), (7, [20])):
        judge = HeldOut(config, data.held_out, Plan(until=20, checkpoint_every=every))
        state, reports = run(every, judge=judge)
        assert [step for step, line in reports.items() if "held_out_nll" in line] == wanted
        for name, tensors in snapshot(state).tensors.items():
            assert all(torch.equal(tensors[key], plain[name][key]) for key in tensors)


@pytest.mark.parametrize(
    ("error", "why", "tries"),
    [
        (DataError("Expected at most 1 bad image(s); got 2."), "Expected at most 1 bad", 1),
        (torch.OutOfMemoryError("CUDA out of memory."), "The GPU has no room for them", 2),
    ],
)
def test_held_out_images_that_cannot_be_looked_at_are_said_once_and_end_nothing(
    config, data, monkeypatch, capsys, error, why, tries
):
    tried = []

    def failing(*_):
        tried.append(error)
        raise error

    monkeypatch.setattr(on_the_way, "held_out_values", failing)
    judge = HeldOut(config, data.held_out, Plan(until=9, checkpoint_every=1))
    assert judge(TrainState(config, CPU)) == judge(TrainState(config, CPU)) == {}
    assert len(tried) == tries
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Warning: held-out images are not looked at on the way. {why}")
