"""A run that begins with the weights of another: what is taken, and what does not fit."""

import contextlib
import dataclasses
import hashlib
import shutil

import pytest
import torch
from tests.mimflow_train.conftest import SMALL

from mimflow_train import run as run_module
from mimflow_train.config.file import write_config
from mimflow_train.config.overrides import override
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import ConfigError
from mimflow_train.plan import Plan
from mimflow_train.recipes import tiny
from mimflow_train.run import train_run
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import (
    export_weights,
    fingerprint,
    load_state,
    snapshot,
    write_checkpoint,
)
from mimflow_train.storage.init import first_snapshot, require_weights_that_fit
from mimflow_train.storage.run_folder import checkpoints, init_of, told_of_init
from mimflow_train.telemetry.run_log import RunLog

CPU = torch.device("cpu")


def of_classes(config, *names, **changes):
    """Return a configuration for images of other classes."""
    flow = dataclasses.replace(config.model.flow, num_classes=len(names))
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, flow=flow),
        data=dataclasses.replace(config.data, class_names=names),
        **changes,
    )


@pytest.fixture
def train(tmp_path):
    """Return a function that leaves a run at step 2, and its state, without a step being made."""

    def function(config, name="first"):
        state = TrainState(config, CPU)
        with torch.no_grad():
            for number, weight in enumerate((*state.model.parameters(), *state.ema.parameters())):
                weight.add_(0.01 * number)
        state.step = 2
        write_config(config, tmp_path / name)
        write_checkpoint(snapshot(state), config, tmp_path / name)
        return tmp_path / name, state

    return function


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_run_begins_with_what_the_other_s_samples_are_made_with(config, train, tmp_path, weights):
    run, first = train(dataclasses.replace(config, weights=weights))
    file = tmp_path / "exported.safetensors"
    export_weights(*checkpoints(run), first.config, file)
    wanted = (first.ema if weights == "ema" else first.model).state_dict()
    other = dataclasses.replace(config, seed=1, steps=4)
    for source in (run, file):
        out = tmp_path / f"from {source.stem}"
        folder = write_checkpoint(first_snapshot(source, other), other, out)
        state = load_state(folder, other, CPU)
        assert same(state.model.state_dict(), wanted)
        assert same(state.ema.state_dict(), wanted)
        assert (state.step, state.tensors()["optimizer"]) == (0, {})
    assert init_of(out)["from"] == str(file)
    (read,) = run.glob(f"checkpoints/*/{'ema' if weights == 'ema' else 'model'}.safetensors")
    state.step = 3
    write_checkpoint(snapshot(state), other, tmp_path / "from first")
    record = init_of(tmp_path / "from first")
    assert record["sha256"] == hashlib.sha256(read.read_bytes()).hexdigest()
    assert (record["from"], record["checkpoint"]) == (str(run), "step_00000002")
    assert told_of_init(record) == (
        f"The networks began with the {read.stem} weights of step_00000002 in {run} "
        f"(sha256 {record['sha256'][:16]})."
    )


def test_classes_are_taken_by_name_and_new_ones_begin_at_random(config, train):
    run, first = train(config)  # of a, b and c
    other = of_classes(config, "c", "new", "a", "newer", seed=1)
    require_weights_that_fit(run, other)
    begun, fresh = first_snapshot(run, other), TrainState(other, CPU).model.state_dict()
    found, wanted = begun.tensors["model"], first.ema.state_dict()
    tables = [name for name in wanted if name.endswith(".classes")]
    assert tables
    for name in tables:
        rows = [wanted[name][2], fresh[name][1], wanted[name][0], fresh[name][3]]
        assert torch.equal(found[name], torch.stack(rows))
    assert same(*({k: v for k, v in each.items() if k not in tables} for each in (found, wanted)))
    assert begun.init["at_random"] == ["2 of 4 classes"]
    assert told_of_init(begun.init).endswith("); 2 of 4 classes at random.")


def test_feature_decoders_of_other_teachers_begin_at_random(train):
    config = override(tiny(("a", "b"), "emoji"), SMALL)
    run, first = train(config)
    other = dataclasses.replace(config, model=config.model.imitating(["efflite0", "hog"]))
    require_weights_that_fit(run, other)
    begun = first_snapshot(run, other)
    fresh = TrainState(other, CPU).model.state_dict()
    for name, value in begun.tensors["ema"].items():
        source = fresh if ".hog." in name else first.ema.state_dict()
        assert torch.equal(value, source[name]), name
    assert begun.init["at_random"] == ["the feature decoder of hog"]
    none = dataclasses.replace(config, loss=dataclasses.replace(config.loss, feature=0.0))
    assert first_snapshot(run, none).init["at_random"] == []
    wider = override(config, ["model.features.efflite0.hidden_width=5"])
    assert first_snapshot(run, wider).init["at_random"] == ["the feature decoder of efflite0"]


@pytest.mark.parametrize("look", [first_snapshot, require_weights_that_fit])
def test_weights_of_other_networks_are_refused(config, train, tmp_path, look):
    run, _ = train(config)
    with pytest.raises(ConfigError) as refusal:
        look(run, override(config, ["model.decoder.depth=2"]))
    name = "decoder.to_tokens.trunk"
    assert str(refusal.value) == (
        f"Expected in {run} the weights of networks like this run's; got {name}.rope.freqs of "
        f"shape (2, 1, 2, 4), not (2, 2, 2, 4), no {name}.blocks.1.norm1.weight, no "
        f"{name}.blocks.1.norm1.bias and 11 more. Add --config {run} for its sizes, or leave out "
        "--init."
    )
    shallower = override(config, ["model.flow.depths=(1,)"])
    with pytest.raises(ConfigError, match=r"got flow\.blocks\.1\.classes, of which this run has"):
        look(run, shallower)
    with pytest.raises(ConfigError, match="there is no"):
        look(tmp_path / "none", config)


class Stopping(LocalContext):
    """A worker that is asked to stop after three steps."""

    asked = 0

    def should_stop(self):
        self.asked += 1
        return self.asked == 3


def test_a_run_that_began_so_goes_on_bit_for_bit_without_the_other(
    config, train, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run_module, "load_data", lambda *_: data)
    run, _ = train(of_classes(config, "a", "z"))
    plan = Plan(until=6, checkpoint_every=100)

    def trained(name, *contexts):
        for kind in contexts:
            with contextlib.closing(RunLog(config, tmp_path / name, plan, shown=False)) as log:
                train_run(kind(CPU, log.write, StopRequest()), config, tmp_path / name, plan, log)
        return fingerprint(checkpoints(tmp_path / name)[-1])

    for name in ("whole", "parts"):
        write_checkpoint(first_snapshot(run, config), config, tmp_path / name)
    shutil.rmtree(run)
    assert trained("whole", LocalContext) == trained("parts", Stopping, LocalContext)
    assert [each.name for each in checkpoints(tmp_path / "parts")] == [
        "step_00000003",
        "step_00000006",
    ]
    assert init_of(tmp_path / "parts")["from"] == str(run)
    (tmp_path / "random").mkdir()
    assert trained("random", LocalContext) != trained("whole")
    assert "no longer the same bits" not in capsys.readouterr().err
