"""What is said and noted when no step ends, and that a run whose step hangs tells it by itself."""

import contextlib
import dataclasses
import functools
import os
import threading

import pytest
import torch

from mimflow_train import run as run_module
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.joint_phase import JointPhase
from mimflow_train.plan import Plan
from mimflow_train.run import train_run
from mimflow_train.telemetry.run_log import RunLog
from mimflow_train.telemetry.stall import StallWatch


@pytest.fixture
def told(monkeypatch):
    """Return a function that waits for the next sentence; all that came are its ``said``."""
    came = threading.Semaphore(0)

    def wait():
        assert came.acquire(timeout=60)
        return wait.said[-1]

    def say(message):
        wait.said.append(message)
        came.release()

    wait.said = []
    monkeypatch.setattr("mimflow_train.telemetry.stall.say", say)
    return wait


def test_each_stall_is_told_and_noted_once(told, tmp_path):
    watch = StallWatch(tmp_path, 0, seconds=0.05)
    with watch.looking():
        assert told() == (
            "Warning: no step has ended for 0 s, since the start. "
            f"What each worker is doing is written to {tmp_path}/errors/stall_00000000.*"
        )
        watch.stepped(8)
        assert "since step 8." in told()
    names = sorted(path.name for path in (tmp_path / "errors").iterdir())
    assert names == ["stall_00000000.rank_0.txt", "stall_00000008.rank_0.txt"]
    assert "test_each_stall_is_told_and_noted_once" in (tmp_path / "errors" / names[0]).read_text()
    assert len(told.said) == 2


def test_a_watch_that_is_over_tells_nothing(told, tmp_path):
    watch = StallWatch(tmp_path, 0, seconds=600.0)
    with watch.looking():
        pass
    assert told.said == [] == list(tmp_path.iterdir())
    assert not any(thread.name.endswith("(_look)") for thread in threading.enumerate())


def test_one_worker_speaks_for_all(told, tmp_path):
    first, second = (StallWatch(tmp_path, rank, seconds=0.05) for rank in (0, 1))
    with second.looking():
        while not (tmp_path / "errors" / "stall_00000000.rank_1.txt").is_file():
            threading.Event().wait(0.01)
    assert told.said == []
    with first.looking():
        told()


def test_a_note_that_the_disk_does_not_take_ends_nothing(told, tmp_path):
    (tmp_path / "errors").write_text("no folder")
    watch = StallWatch(tmp_path, 0, seconds=0.05)
    with watch.looking():
        assert "since the start" in told()
        watch.stepped(1)
        assert "since step 1." in told(), "it looks on"


def test_a_note_to_a_storage_that_hangs_keeps_no_process(told, tmp_path):
    (tmp_path / "errors").mkdir()
    pipe = tmp_path / "errors" / "stall_00000000.rank_0.txt"
    os.mkfifo(pipe)  # opening it waits for a reader
    with StallWatch(tmp_path, 0, seconds=0.05).looking():
        assert "since the start" in told()
    pipe.read_text()  # and the thread goes on


def test_a_step_that_hangs_is_told_while_it_does(told, config, data, tmp_path, monkeypatch):
    gradients, config = JointPhase.gradients, dataclasses.replace(config, steps=3)

    def hanging(self, batch, draws):
        if self.state.step == 2:
            while not told.said or "since step 2." not in told.said[-1]:
                told()
        return gradients(self, batch, draws)

    monkeypatch.setattr(JointPhase, "gradients", hanging)
    monkeypatch.setattr(run_module, "load_data", lambda *_: data)
    monkeypatch.setattr(run_module, "StallWatch", functools.partial(StallWatch, seconds=0.5))
    plan = Plan(until=3, checkpoint_every=10)
    with contextlib.closing(RunLog(config, tmp_path, plan, shown=False)) as run_log:
        context = LocalContext(torch.device("cpu"), run_log.write, StopRequest())
        assert train_run(context, config, tmp_path, plan, run_log).step == 3
    assert "hanging" in (tmp_path / "errors" / "stall_00000002.rank_0.txt").read_text()
