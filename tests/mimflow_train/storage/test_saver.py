"""Checkpoints are written beside training, hold one step, and a full disk is no disaster."""

import contextlib
import json
import shutil
import threading
import weakref
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from mimflow_train import run as run_module
from mimflow_train.config.overrides import override
from mimflow_train.device.memory import set_computation
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import StorageError
from mimflow_train.plan import Plan
from mimflow_train.state import TrainState
from mimflow_train.storage import checkpoint
from mimflow_train.storage import saver as saver_module
from mimflow_train.storage.checkpoint import (
    fingerprint,
    load_state,
    snapshot,
    write_checkpoint,
)
from mimflow_train.storage.run_folder import checkpoints
from mimflow_train.storage.saver import Saver
from mimflow_train.telemetry.run_log import RunLog
from tarflow_prior import NonFiniteError

CPU = torch.device("cpu")


@pytest.fixture
def state(config):
    return TrainState(config, CPU)


@pytest.fixture
def saver(config, data, tmp_path):
    return Saver(config, data, tmp_path, Plan(until=6, checkpoint_every=2, milestone_every=4))


@pytest.fixture
def hold(monkeypatch):
    """Return a function that makes another one wait for the event that comes back."""

    def function(module, name):
        release, work = threading.Event(), getattr(module, name)

        def held(*arguments):
            assert release.wait(60)
            work(*arguments)

        monkeypatch.setattr(module, name, held)
        return release

    return function


def full_disk(*_):
    raise OSError("No space left on device")


def test_training_goes_on_while_the_files_are_written(state, saver, tmp_path, hold):
    release = hold(checkpoint, "save_file")
    weight = next(state.model.parameters())
    before = weight.detach().clone()
    state.step = 2
    saver(state)
    with torch.no_grad():
        weight.add_(1.0)
    assert checkpoints(tmp_path) == []
    release.set()
    saver.wait()
    (folder,) = checkpoints(tmp_path)
    name = next(name for name, _ in state.model.named_parameters())
    assert torch.equal(load_file(folder / "model.safetensors")[name], before)


def test_the_last_checkpoint_of_a_phase_is_there_at_once(state, saver, tmp_path):
    state.step = state.end
    saver(state)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step_00000006"]


@pytest.mark.parametrize("pictures_fit", [True, False])
def test_third_failed_save_in_a_row_ends_the_run(state, saver, monkeypatch, capsys, pictures_fit):
    saver(state)
    saver.wait()
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    if not pictures_fit:  # which makes it no other save
        monkeypatch.setattr("mimflow_train.storage.saver.save_grid", full_disk)
    for _ in range(3):
        saver(state)
    assert capsys.readouterr().err.count("Training goes on; earlier") == 2
    with pytest.raises(StorageError, match="No space left"):
        saver(state)


def test_a_checkpoint_that_does_not_fit_the_disk_is_not_begun(state, saver, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10, 10)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(checkpoint, "save_file", None)  # nothing is written
    saver(state)
    saver(state)
    assert "and 0.00 GiB are free. Free some space. Training goes on" in capsys.readouterr().err


def test_a_drive_that_does_not_know_its_size_is_written_to(state, saver, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 0)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    saver(state)
    saver.wait()
    assert len(checkpoints(tmp_path)) == 1


def test_an_old_checkpoint_that_cannot_be_removed_ends_no_run(state, saver, tmp_path, monkeypatch):
    remove = shutil.rmtree

    def busy(path, *, ignore_errors=False):
        if "step_00000000" not in str(path):
            remove(path, ignore_errors=ignore_errors)
        elif not ignore_errors:
            raise OSError("Directory not empty")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", busy)
    for step in (0, 1, 2, 3, 4):
        state.step = step
        saver(state)
    saver.wait()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step_00000003", "step_00000004"]
    monkeypatch.setattr(checkpoint.shutil, "rmtree", remove)
    state.step = 5
    saver(state)
    saver.wait()
    assert len([*(tmp_path / "checkpoints").iterdir()]) == 2


def test_samples_of_raw_weights_are_drawn_by_layers_as_written(config, data, tmp_path, monkeypatch):
    config = override(config, ["weights=raw", "recompute=true"])
    state, drew = TrainState(config, CPU), []
    set_computation(state.model, config, CPU)
    monkeypatch.setattr(
        saver_module, "sample_rows", lambda model, *_: drew.append(model) or ([], [])
    )
    monkeypatch.setattr(saver_module, "save_grid", lambda *_: None)
    saver = Saver(config, data, tmp_path, Plan(until=1, checkpoint_every=1))
    saver(state)
    saver.wait()
    (model,) = drew
    assert not any("forward" in vars(each) for each in model.modules())
    wanted = state.model.state_dict()
    assert all(torch.equal(each, wanted[name]) for name, each in model.state_dict().items())


def test_a_picture_that_cannot_be_written_is_no_failed_save(state, saver, monkeypatch, capsys):
    monkeypatch.setattr("mimflow_train.storage.saver.save_grid", full_disk)
    for _ in range(4):
        saver(state)
        assert saver.failures == 0
    saver.wait()
    assert capsys.readouterr().err.count("no picture") == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        NonFiniteError("A sample overflowed.", torch.ones(1, 1, 1), [0]),
    ],
    ids=["memory", "overflow"],
)
def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(
    state, saver, tmp_path, monkeypatch, capsys, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr("mimflow_train.storage.saver.sample_rows", fail)
    saver(state)
    saver.wait()
    assert f"step_00000000.png; {error} Training goes on." in capsys.readouterr().err
    assert len(checkpoints(tmp_path)) == 1


def test_training_goes_on_while_a_picture_is_encoded(state, saver, tmp_path, hold):
    release = hold(saver_module, "save_grid")
    saver(state)
    path = tmp_path / "samples" / "step_00000000.png"
    assert not path.exists()
    release.set()
    saver.wait()
    with Image.open(path) as picture:
        assert picture.size == (96 + 12 * (2 * 16 + 2), 3 * (2 * 16 + 2))


def test_a_save_of_a_run_that_is_told_to_stop_has_no_picture(state, saver, tmp_path):
    for step in (2, 3):  # one every two steps is planned
        state.step = step
        saver(state)
    saver.wait()
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_00000002.png"]
    assert len(checkpoints(tmp_path)) == 2


def test_a_milestone_that_does_not_fit_is_a_failed_save(
    config, state, saver, tmp_path, monkeypatch, capsys
):
    export, save = tmp_path / "x.safetensors", checkpoint.save_file
    folder = write_checkpoint(snapshot(state), config, tmp_path)
    checkpoint.export_weights(folder, config, export)
    before = export.read_bytes()

    def torn(tensors, path, metadata=None):
        if metadata is None:
            return save(tensors, path)
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(StorageError, match=r"Expected to write weights to .*No space left"):
        checkpoint.export_weights(folder, config, export)
    assert export.read_bytes() == before
    state.step = 4
    saver(state)
    saver(state)
    assert "Training goes on; earlier checkpoints" in capsys.readouterr().err
    assert not list((tmp_path / "milestones").iterdir())


def test_a_save_that_works_forgives_those_that_did_not(state, saver, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        saver(state)
        saver(state)
        assert saver.failures == 1
    saver(state)
    assert saver.failures == 2
    saver.wait()
    assert saver.failures == 0


def test_failed_save_at_the_end_is_no_warning(state, saver, monkeypatch):
    state.step = state.end
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        saver(state)


def test_a_file_of_another_name_among_the_milestones_is_passed_over(state, saver, tmp_path):
    (tmp_path / "milestones").mkdir()
    (tmp_path / "milestones" / "step_best.safetensors").touch()
    state.step = 4
    saver(state)
    saver.wait()
    assert (tmp_path / "milestones" / "step_00000004.safetensors").is_file()


def test_milestones_keep_the_average_when_checkpoints_go(state, saver, tmp_path):
    for step in (2, 4, 6):
        state.step = step
        saver(state)
    names = [path.name for path in (tmp_path / "milestones").iterdir()]
    assert names == ["step_00000004.safetensors"]
    with safe_open(tmp_path / "milestones" / names[0], "pt") as file:
        assert set(file.keys()) == set(state.ema.state_dict())
        assert file.metadata()["weights"] == "ema"


def test_milestones_of_a_branch_that_was_left_are_written_anew(state, config, data, tmp_path):
    """As in a copy of a run without its newest checkpoints."""
    kept = tmp_path / "milestones"
    kept.mkdir()
    for step in (4, 6, 12):
        (kept / f"step_{step:08d}.safetensors").touch()
    plan = Plan(until=6, checkpoint_every=2, milestone_every=2)
    saver, log = Saver(config, data, tmp_path, plan), RunLog(config, tmp_path, plan, shown=False)
    context = LocalContext(CPU, log.write, StopRequest())
    state.step = 4
    with contextlib.closing(log), run_module._leaving_a_trace(context, saver, log, state):
        state.step = 6
        saver(state)
    sizes = {file.stem[-2:]: file.stat().st_size for file in kept.iterdir()}
    assert (sizes["04"], sizes["12"]) == (0, 0)
    assert sizes["06"] > 0


@pytest.mark.parametrize(
    ("step", "kept", "expected"),
    [
        (0, [], False),
        (49, [], False),
        (50, [], True),
        (56, [], True),
        (63, [56], False),
        (63, [], True),  # where the disk did not take the one of 56
        (100, [56], True),
        (105, [56, 100], False),
        (50, [50], False),
    ],
)
def test_a_milestone_is_the_first_checkpoint_that_is_kept_from_each_multiple_on(
    step, kept, expected
):
    plan = Plan(until=9, checkpoint_every=7, milestone_every=50)
    assert plan.is_milestone(step, kept) is expected


def test_equal_states_have_equal_fingerprints_and_one_bit_changes_it(config, state, tmp_path):
    first = fingerprint(write_checkpoint(snapshot(state), config, tmp_path / "a"))
    again = fingerprint(write_checkpoint(snapshot(TrainState(config, CPU)), config, tmp_path / "b"))
    bias = next(p for n, p in state.ema.named_parameters() if p.ndim == 1)
    bias.data[0] = torch.nextafter(bias.data[0], torch.tensor(9.0))
    other = fingerprint(write_checkpoint(snapshot(state), config, tmp_path / "c"))
    assert first == again != other


def test_a_checkpoint_whose_manifest_is_torn_has_no_fingerprint(config, state, tmp_path):
    folder = write_checkpoint(snapshot(state), config, tmp_path)
    (folder / "manifest.json").write_text("{")
    assert fingerprint(folder) == "unknown"


def test_what_a_killed_process_left_half_written_goes(config, state, tmp_path):
    left = tmp_path / "checkpoints" / ".step_00000003.draft"
    left.mkdir(parents=True)
    folder = write_checkpoint(snapshot(state), config, tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == [folder]


def test_files_of_a_checkpoint_are_read_one_after_the_other(config, state, tmp_path, monkeypatch):
    folder = write_checkpoint(snapshot(state), config, tmp_path)
    read, held, load = [], [], checkpoint.load_file

    def watched(path):
        held.append(sum(each() is not None for each in read))
        tensors = load(path)
        read.extend(map(weakref.ref, tensors.values()))
        return tensors

    monkeypatch.setattr(checkpoint, "load_file", watched)
    load_state(folder, config, CPU)
    assert len(held) >= 3  # the checks of argument types that tests add look into it as well
    assert set(held) == {0}


def test_a_manifest_names_what_was_written_whatever_a_listing_says(
    config, state, tmp_path, monkeypatch
):
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))  # as from Python 3.13 on after an error
    folder = write_checkpoint(snapshot(state), config, tmp_path)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {f"{name}.safetensors" for name in state.tensors()}
