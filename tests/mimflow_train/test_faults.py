"""What goes wrong in a long run, and how the run takes it."""

import contextlib
import dataclasses
import importlib.metadata
import json
import pickle
import signal
import subprocess
import sys
import weakref

import pytest
import torch

from genmetrics import GenmetricsError
from mimflow_train import run as run_module
from mimflow_train.data.layout import read_layout
from mimflow_train.data.source import load_data
from mimflow_train.engine import agreement
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import (
    ConfigError,
    DataError,
    DivergedError,
    PeerError,
    RetriesError,
    StorageError,
)
from mimflow_train.failures import StepError, ended, note_failure
from mimflow_train.joint_phase import JointPhase
from mimflow_train.loop import Calls
from mimflow_train.loop import train as train_loop
from mimflow_train.plan import Plan
from mimflow_train.run import train_run
from mimflow_train.state import DecoderState, TrainState
from mimflow_train.storage import checkpoint
from mimflow_train.storage.checkpoint import fingerprint, load_state, snapshot, write_checkpoint
from mimflow_train.storage.lock import locked
from mimflow_train.storage.run_folder import checkpoints, prepare_run
from mimflow_train.storage.saver import Saver
from mimflow_train.telemetry.run_log import RunLog

CPU, TORCH = torch.device("cpu"), importlib.metadata.version("torch")


@pytest.fixture
def train(config, data, tmp_path, monkeypatch):
    """Return a function that trains in a run folder to step 9, a checkpoint every 2 steps."""
    config = dataclasses.replace(config, steps=9)
    monkeypatch.setattr(run_module, "load_data", lambda *_: data)

    def function():
        plan = Plan(until=9, checkpoint_every=2)
        with contextlib.closing(RunLog(config, tmp_path, plan, shown=False)) as run_log:
            context = LocalContext(CPU, run_log.write, StopRequest())
            return train_run(context, config, tmp_path, plan, run_log)

    return function


@pytest.fixture
def breaks(monkeypatch):
    """Return a function that makes chosen steps of the joint phase go wrong."""
    gradients = JointPhase.gradients

    def function(wrong):
        def broken(self, batch, draws):
            values = gradients(self, batch, draws)
            wrong(self.state, draws)
            return values

        monkeypatch.setattr(JointPhase, "gradients", broken)

    return function


def full_disk(*_):
    raise OSError("No space left on device")


def spoil(state):
    next(state.model.parameters()).grad.fill_(torch.nan)


def test_a_divergence_rolls_back_once_and_goes_on_with_other_draws(
    train, breaks, config, tmp_path, capsys
):
    seen = {}

    def wrong(state, draws):
        seen.setdefault(state.step, []).append(draws.noise)
        if state.draw_stream == 0 and state.step >= 3:
            spoil(state)

    breaks(wrong)
    state = train()
    assert (state.step, state.draw_stream) == (9, 5)
    assert "Rolling back to the last checkpoint" in capsys.readouterr().err
    first, second = seen[4]
    assert not torch.equal(first, second)
    assert load_state(checkpoints(tmp_path)[-1], config, CPU).draw_stream == 5


def test_a_later_divergence_rolls_back_as_well(train, breaks, capsys):
    def wrong(state, _):
        if (state.draw_stream, state.step) in ((0, 0), (0, 1), (0, 2), (2, 6), (2, 7), (2, 8)):
            spoil(state)

    breaks(wrong)
    state = train()
    assert (state.step, state.draw_stream) == (9, 8)
    assert capsys.readouterr().err.count("Rolling back to the last checkpoint") == 2


def test_skips_before_the_checkpoint_that_a_run_rolls_back_to_are_forgotten(train, breaks):
    def wrong(state, _):
        if (state.draw_stream, state.step) in ((0, 2), (0, 3), (0, 4), (4, 4)):
            spoil(state)  # the checkpoint of step 4 is amid them

    breaks(wrong)
    state = train()
    assert (state.step, state.draw_stream, state.skips) == (9, 4, 0)


def test_what_was_rolled_back_is_reported_once(train, breaks, tmp_path):
    breaks(lambda state, _: spoil(state) if state.draw_stream == 0 and state.step >= 3 else None)
    train()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1  # of step 9


def test_a_prolonged_run_is_a_longer_one_bit_for_bit(config, data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "load_data", lambda *_: data)
    optim = dataclasses.replace(config.optim, schedule="constant")

    def train(folder, steps):
        each = dataclasses.replace(config, optim=optim, steps=steps)
        prepare_run(each, tmp_path / folder, "auto")
        plan = Plan(until=steps, checkpoint_every=100)
        with contextlib.closing(RunLog(each, tmp_path / folder, plan, shown=False)) as run_log:
            context = LocalContext(CPU, run_log.write, StopRequest())
            train_run(context, each, tmp_path / folder, plan, run_log)
        return fingerprint(checkpoints(tmp_path / folder)[-1])

    train("prolonged", 4)
    assert train("prolonged", 7) == train("whole", 7)


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        (("fp32 on cpu", TORCH), False),
        ((None, None), False),  # of a checkpoint from before these were noted
        (("bf16 on cpu", TORCH), True),
        (("fp32 on cuda", TORCH), True),
        (("fp32 on cpu", "1.13"), True),
    ],
    ids=["same", "unknown", "precision", "device", "torch"],
)
def test_a_run_that_goes_on_in_another_arithmetic_says_so(
    train, config, tmp_path, capsys, recorded, says
):
    state = TrainState(config, CPU)
    state.step = 8
    path = write_checkpoint(snapshot(state), config, tmp_path) / "manifest.json"
    precision, version = recorded
    manifest = json.loads(path.read_text()) | {"commit": "another"}
    del manifest["precision"], manifest["versions"]
    if precision:
        manifest |= {"precision": precision, "versions": {"torch": version}}
    path.write_text(json.dumps(manifest))
    train()
    sentence = (
        f"Checkpoint step_00000008 was trained in {precision} with torch {version}; this goes on "
        f"in fp32 on cpu with torch {TORCH}, and is no longer the same bits.\n"
    )
    assert capsys.readouterr().err == sentence * says
    train()  # there is nothing left to train
    assert capsys.readouterr().err == ""


def test_a_second_divergence_ends_the_run(train, breaks):
    breaks(lambda state, _: spoil(state) if state.step >= 3 else None)
    with pytest.raises(DivergedError, match=r"3 steps in a row.*Begin a new --out .* --init RUN"):
        train()


def test_a_diagnosis_names_the_block_where_it_begins(train, breaks):
    def wrong(state, _):
        if state.step >= 3:
            parts = dict(state.model.named_parameters())
            flow = [name for name in parts if name.startswith("flow.blocks.")]
            for name in ("encoder.mask_token", flow[0], flow[-1]):
                parts[name].grad.fill_(torch.inf)

    breaks(wrong)
    with pytest.raises(DivergedError, match=r"in 3 of \d+ blocks, the last of them flow.blocks.1"):
        train()


def test_a_run_that_was_rolled_back_does_not_roll_back_again_when_it_goes_on(
    train, breaks, config, tmp_path, capsys
):
    state = TrainState(config, CPU)
    state.step, state.draw_stream = 2, 3
    write_checkpoint(snapshot(state), config, tmp_path)
    breaks(lambda state, _: spoil(state))
    with pytest.raises(DivergedError):
        train()
    assert "Rolling back" not in capsys.readouterr().err


def test_one_bad_step_is_skipped_and_counted(train, breaks, tmp_path):
    breaks(lambda state, _: spoil(state) if state.step == 3 else None)
    state = train()
    assert (state.step, state.draw_stream) == (9, 0)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["skipped_steps"] == 1


def test_a_skipped_step_is_noted_with_its_terms_and_images(train, breaks, tmp_path, capsys):
    breaks(lambda state, _: spoil(state) if state.step in (3, 6) else None)
    train()
    for step in (3, 6):
        note = json.loads((tmp_path / "errors" / f"step_{step:08d}.rank_0.json").read_text())
        assert note["step"] == step
        assert note["terms"]["nll"] > -2
        assert "nan" in note["terms"].values()
        assert len(note["images"]) == 8
        assert set(note["images"]) <= set(range(16))
    said = capsys.readouterr().err
    assert said.count("has no finite gradient") == 1
    assert "step_00000003.rank_0.json" in said


def test_a_skipped_step_that_cannot_be_noted_ends_no_run(train, breaks, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "note_skipped", full_disk)
    breaks(lambda state, _: spoil(state) if state.step == 3 else None)
    assert train().step == 9
    assert "step 3 was skipped and cannot be noted (No space left" in capsys.readouterr().err


def test_a_first_pass_that_does_not_fit_is_one_sentence(config, data, monkeypatch):
    def large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("mimflow_train.loop.phase_of", large)
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    config = dataclasses.replace(config, micro_batch=8)
    with pytest.raises(ConfigError, match="Expected a micro-batch of 8 to fit"):
        train_loop(
            context, config, data, state=TrainState(config, CPU), calls=Calls(9, lambda _: None)
        )


def test_the_decoder_phase_keeps_the_draws_of_a_run_that_was_rolled_back(config):
    state = TrainState(config, CPU)
    state.draw_stream = 1
    assert DecoderState.after(state, torch.device("cpu")).draw_stream == 1


def test_a_step_that_fails_for_no_known_reason_is_noted(train, breaks, tmp_path):
    def wrong(state, _):
        if state.step == 3:
            raise RuntimeError("a kernel has fallen over")

    breaks(wrong)
    with pytest.raises(StepError, match="Step 3 failed"):
        train()
    note = (tmp_path / "errors" / "step_00000003.rank_0.txt").read_text()
    assert "RuntimeError: a kernel has fallen over" in note
    assert "in wrong" in note
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step_00000002"]


def test_a_step_that_fails_for_good_leaves_the_last_save_finished(
    train, breaks, monkeypatch, capsys
):
    def wrong(state, _):
        if state.step == 3:
            raise RuntimeError("a kernel has fallen over")

    breaks(wrong)
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    for error in (StepError, StepError, RetriesError):
        with pytest.raises(error):
            train()
        assert capsys.readouterr().err.count("Warning: Expected to write a checkpoint to") == 1


def test_a_step_that_failed_three_times_is_not_tried_a_fourth(tmp_path):
    def fail(text):
        try:
            try:
                raise RuntimeError(text)
            except RuntimeError as cause:
                raise StepError(3, "RuntimeError") from cause
        except StepError as error:
            note_failure(tmp_path, 0, error)

    fail("first")
    fail("second")
    with pytest.raises(RetriesError, match=r"step 3 to succeed; it failed 3 times, now.*third"):
        fail("third")
    note = (tmp_path / "errors" / "step_00000003.rank_0.txt").read_text()
    assert note.index("first") < note.index("second") < note.index("third")


@pytest.mark.parametrize(
    ("micro_batch", "advice"),
    [(0, "Give a smaller --micro-batch, or"), (4, "Give --micro-batch auto, or a smaller")],
)
def test_memory_that_does_not_suffice_is_one_sentence(config, data, breaks, micro_batch, advice):
    def wrong(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    breaks(wrong)
    config = dataclasses.replace(config, micro_batch=micro_batch)
    state, context = TrainState(config, CPU), LocalContext(CPU, lambda *_: None, StopRequest())
    with pytest.raises(ConfigError, match=advice):
        train_loop(context, config, data, state=state, calls=Calls(9, lambda _: None))


def test_memory_that_does_not_suffice_amid_a_run_is_a_step_to_try_again(train, breaks):
    def wrong(state, _):
        if state.step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate.\nSee the manual.")

    breaks(wrong)
    with pytest.raises(
        StepError,
        match=r"3 failed \(OutOfMemoryError: CUDA out of memory.*again, lower --micro-batch\)",
    ):
        train()


@pytest.mark.parametrize("fails", [False, True])
def test_no_worker_leaves_before_the_last_checkpoint_is_written(train, monkeypatch, fails):
    """torchrun on another machine would end, and Slurm this one's workers amid their writing."""
    order, wait = [], Saver.wait

    def waited(saver):
        wait(saver)
        order.append("written")
        if fails:
            raise StorageError("the disk")

    monkeypatch.setattr(Saver, "wait", waited)
    monkeypatch.setattr(run_module, "_meet", lambda _: order.append("met"))
    with pytest.raises(StorageError) if fails else contextlib.nullcontext():
        train()
    assert order[-2:] == ["written", "met"]


def test_a_worker_that_is_gone_before_all_leave_changes_nothing(train, monkeypatch, capsys):
    def lost(_):
        raise RuntimeError("[.../gloo/transport/tcp/pair.cc:561] Connection closed by peer")

    monkeypatch.setattr(run_module, "_saving", lambda _, saver: saver)  # which does not meet
    monkeypatch.setattr(run_module, "_meet", lost)
    assert train().step == 9
    assert "another worker has ended while rank 0 waited to leave" in capsys.readouterr().err


@pytest.mark.usefixtures("_folders_without_sync")
def test_a_checkpoint_is_good_where_folders_cannot_be_synced(config, tmp_path):
    folder = write_checkpoint(snapshot(TrainState(config, CPU)), config, tmp_path)
    assert checkpoints(tmp_path) == [folder]
    assert checkpoint.damage(folder) is None


def test_the_state_that_diverged_is_gone_before_another_is_made(
    train, config, data, tmp_path, breaks, monkeypatch
):
    config, weights, left = dataclasses.replace(config, recompute=True), [], []

    def wrong(state, _):
        if state.draw_stream == 0:
            weights[:] = map(weakref.ref, state.model.parameters())
            spoil(state)

    def newest(*_):
        left.append(sum(each() is not None for each in weights))
        return None, {}

    breaks(wrong)
    monkeypatch.setattr(run_module, "_newest_checkpoint", newest)
    plan = Plan(until=4, checkpoint_every=9)
    with contextlib.closing(RunLog(config, tmp_path, plan, shown=False)) as run_log:
        context = LocalContext(CPU, run_log.write, StopRequest())
        train_run(context, config, tmp_path, plan, run_log)
    assert len(weights) > 0
    assert left == [0, 0]


def test_a_disk_that_is_full_does_not_hide_a_divergence(
    train, breaks, config, tmp_path, monkeypatch, capsys
):
    state = TrainState(config, CPU)
    state.step, state.draw_stream = 2, 3
    write_checkpoint(snapshot(state), config, tmp_path)
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    breaks(lambda state, _: spoil(state) if state.step >= 4 else None)
    with pytest.raises(DivergedError):
        train()
    assert capsys.readouterr().err.count("Warning: Expected to write a checkpoint to") == 2


def test_a_disk_that_is_full_does_not_hide_why_a_step_failed(train, breaks, monkeypatch):
    def wrong(state, _):
        if state.step == 3:
            raise ValueError("out of luck")

    breaks(wrong)
    monkeypatch.setattr(run_module, "note_failure", full_disk)
    with pytest.raises(StepError, match="ValueError: out of luck"):
        train()


def test_the_end_of_another_worker_is_not_noted_as_a_step_s_failure(train, breaks, tmp_path):
    def wrong(state, _):
        if state.step == 3:
            raise RuntimeError("[/src/gloo/transport/tcp/pair.cc:561] Connection closed by peer")

    breaks(wrong)
    with pytest.raises(PeerError, match=r"Step 3 met with the end of another.*closed by peer"):
        train()
    assert not (tmp_path / "errors").exists()


def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path):
    program = (
        "import sys; from pathlib import Path; from mimflow_train.storage.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    first = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert first.stdout.readline() == "held\n"
    with (
        pytest.raises(ConfigError, match=f"process {first.pid} on .* is at work"),
        locked(tmp_path / "run"),
    ):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with locked(tmp_path / "run"):
        pass
    for stream in (first.stdin, first.stdout):
        stream.close()


class _DeathError(Exception):
    """As Ray's, which has a dump of its records as its own text."""

    health_check_failure = RuntimeError(
        "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n"
        "\tpid: 941\n\tip: 192.0.2.2\nThe actor is dead because its worker process has died.\n"
    )


LOST = PeerError("Step 3 met with the end of another worker, which says why.")
BROKEN = pickle.loads(pickle.dumps(StepError(3, "RuntimeError: out of luck")))  # as Ray sends it


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        (
            {0: LOST, 1: _DeathError("records")},
            "Worker 1 on 192.0.2.2 ended: The actor is dead because its worker process has died.",
        ),
        ({0: LOST}, f"Worker 0 ended: {LOST}"),
        (
            {0: BROKEN, 1: BROKEN, 2: LOST},
            "Worker 0 ended: step 3 failed (RuntimeError: out of luck). "
            "Worker 1 ended: step 3 failed (RuntimeError: out of luck).",
        ),
        ({0: RuntimeError()}, "Worker 0 ended: RuntimeError()"),
        ({0: RuntimeError("one\ntwo")}, "Worker 0 ended: one"),
        ({1: LOST, 0: ConfigError("Expected 3; got 4.")}, ""),
        ({0: GenmetricsError("Expected weights.")}, ""),
    ],
    ids=["dead", "all lost another", "failed", "no words", "lines", "mistake", "weights"],
)
def test_who_ended_is_told_with_the_reason(errors, line):
    assert ended(errors) == line


def test_a_run_does_not_go_on_with_images_that_changed_on_the_way(config, folder, tmp_path):
    layout = read_layout(folder)
    data = dataclasses.replace(
        config.data, source=str(folder), class_names=("blue", "red"), fingerprint=layout.fingerprint
    )
    flow = dataclasses.replace(config.model.flow, num_classes=2)
    model = dataclasses.replace(config.model, flow=flow)
    config = dataclasses.replace(config, data=data, model=model)
    assert len(load_data(config).train.labels) == 35
    (folder / "red" / "3.png").rename(folder / "red" / "new.png")
    with pytest.raises(DataError, match="the images that the run began with"):
        load_data(config)


def test_all_workers_end_where_rank_0_cannot_list_its_checkpoints(config, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise OSError("Stale file handle")

    said = []
    monkeypatch.setattr(run_module, "latest_checkpoint", lost)
    monkeypatch.setattr(
        run_module.dist, "broadcast_object_list", lambda found, **_: said.extend(found)
    )
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    context.world_size = 2
    with pytest.raises(OSError, match="Stale"):
        run_module._newest_checkpoint(context, tmp_path, 9)
    assert str(said) == "[OSError('Stale file handle')]"


def test_a_machine_with_other_images_than_rank_0_is_refused(config, data, tmp_path, monkeypatch):
    def broadcast(found, device):
        found[0] = {**found[0], "data": {"fingerprint": "rank 0's"}}

    monkeypatch.setattr(run_module, "load_data", lambda *_: data)
    monkeypatch.setattr(agreement.dist, "broadcast_object_list", broadcast)
    plan = Plan(until=9, checkpoint_every=2)
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    context.rank, context.world_size = 3, 4
    with pytest.raises(DataError, match="rank 3 has others"):
        train_run(context, config, tmp_path, plan, RunLog(config, tmp_path, plan))
