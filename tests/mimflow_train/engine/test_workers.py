"""What a worker of a cluster does when a machine will go, or when it is one too many."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mimflow_train import loop, run
from mimflow_train.engine.agreement import require_same_run
from mimflow_train.engine.context import (
    Place,
    RayContext,
    TorchrunContext,
    leave_spare_workers,
)
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import ConfigError
from mimflow_train.plan import Plan
from mimflow_train.run import train_run
from mimflow_train.telemetry.run_log import RunLog


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def context(tmp_path, clock):
    """Return a function that makes the only worker, told of preemption by a given function."""

    def function(notice):
        place = Place(0, 1, torch.device("cpu"))
        stop_file = tmp_path / "stop"
        return RayContext(place, lambda *_: None, stop_file, notice=notice, clock=clock)

    return function


def test_a_notice_asks_to_save_once(context, clock):
    worker = context(lambda: {"deadline_ms": 17})
    answers = []
    for clock.seconds in range(0, 30, 3):
        answers.append((worker.should_stop(), worker.stopped_to_save()))
    assert answers == [(False, False)] * 2 + [(True, True)] + [(False, False)] * 7


def test_ray_is_asked_every_few_seconds(context, clock):
    asked = []
    worker = context(lambda: asked.append(clock.seconds))
    for clock.seconds in range(17):
        assert not worker.should_stop()
    assert asked == [5, 10, 15]


def test_a_file_system_that_is_away_asks_nobody_to_stop(context, tmp_path, monkeypatch):
    worker = context(lambda: None)
    (tmp_path / "stop").touch()

    def away(_):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", away)
        assert not worker.should_stop()
    assert worker.should_stop()


def test_a_stop_file_ends_the_run_also_when_a_machine_will_go(context, clock, tmp_path):
    worker = context(lambda: {"deadline_ms": 17})
    (tmp_path / "stop").touch()
    for clock.seconds in (1, 7):
        assert worker.should_stop()
        assert not worker.stopped_to_save()


def forked(function, places):
    """Run a function in one process for each place; torch is imported once for all."""
    forks = multiprocessing.get_context("fork")
    workers = [forks.Process(target=function, args=place) for place in places]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(places)


def meet(rank, path, said):
    dist.init_process_group("gloo", f"file://{path}", rank=rank, world_size=5)
    leave_spare_workers(rank, 3, torch.device("cpu"))
    if rank >= 3:
        said.put((rank, dist.is_initialized(), 0))
        return
    ranks = torch.tensor([2.0**rank])
    dist.all_reduce(ranks)
    said.put((rank, dist.get_world_size(), int(ranks)))
    dist.destroy_process_group()


def test_spare_workers_leave_and_the_others_meet_without_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    said = multiprocessing.get_context("fork").Queue()
    forked(meet, [(rank, tmp_path / "meet", said) for rank in range(5)])
    answers = sorted(said.get(timeout=60) for _ in range(5))
    assert answers == [(0, 3, 7), (1, 3, 7), (2, 3, 7), (3, False, 0), (4, False, 0)]


def ask(rank, folder, said):
    """Ask as workers on GPUs would, of which there are none: no tensor may go there."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    gpu, stop = torch.device("cuda"), StopRequest()
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()})
    stop.received = signal.SIGUSR1 if rank == 1 else None
    torchrun = TorchrunContext("cuda", lambda *_: None, stop)
    answers = [torchrun.should_stop(), stop.received]
    file = folder / f"stop_{rank}"
    if rank == 1:
        type(file).exists = None  # rank 0 alone looks
    under_ray = RayContext(Place(rank, 2, gpu), lambda *_: None, file, notice=lambda: None)
    for name in ("stop_1", "stop_0"):
        (folder / name).touch()
        dist.barrier()
        answers.append(under_ray.should_stop())
        dist.barrier()
    said.put(answers)
    dist.destroy_process_group()


def test_whether_to_stop_is_asked_without_a_gpu(tmp_path):
    said = multiprocessing.get_context("fork").Queue()
    forked(ask, [(rank, tmp_path, said) for rank in range(2)])
    for _ in range(2):
        assert said.get(timeout=60) == [True, signal.SIGUSR1, False, True]


def train_until(last, rank, world_size, run_dir, config):
    """Train as one of some workers until the end or a signal after the step ``last``."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()})
    stop, plan = StopRequest(), Plan(until=config.steps, checkpoint_every=100)

    def report(step, values):
        run_log.write(step, values)
        stop.received = signal.SIGTERM if step == last else None

    meeting = f"file://{run_dir}/meet_{world_size}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=world_size)
    with contextlib.closing(RunLog(config, run_dir, plan, shown=False)) as run_log:
        train_run(TorchrunContext("cpu", report, stop), config, run_dir, plan, run_log)
    dist.destroy_process_group()


def begin_otherwise(rank, run_dir, config, said):
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()})
    dist.init_process_group("gloo", f"file://{run_dir}/meet", rank=rank, world_size=2)
    # As one machine's command might have it, whose images lie elsewhere.
    data, optim = config.data, config.optim
    if rank == 1:
        data = dataclasses.replace(data, source="/scratch/images")
        optim = dataclasses.replace(optim, lr=0.5)
    config = dataclasses.replace(config, data=data, optim=optim)
    plan = Plan(until=config.steps, checkpoint_every=100 + rank)
    try:
        require_same_run(TorchrunContext("cpu", lambda *_: None, StopRequest()), config, plan)
        said.put((rank, None))
    except ConfigError as error:
        said.put((rank, str(error)))
    dist.destroy_process_group()


def test_a_worker_that_was_given_other_options_is_refused(config, tmp_path):
    said = multiprocessing.get_context("fork").Queue()
    forked(begin_otherwise, [(rank, tmp_path, config, said) for rank in range(2)])
    answers = dict(said.get(timeout=60) for _ in range(2))
    assert answers == {
        0: None,
        1: "Expected rank 1 to train the run of rank 0; there optim.lr is "
        f"{config.optim.lr}, here 0.5; plan.checkpoint_every is 100, here 101. "
        "Give all machines the same command and packages.",
    }


def test_a_run_that_goes_on_with_fewer_workers_keeps_its_losses(
    config, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "load_data", lambda *_: data)
    monkeypatch.setattr(loop, "_REPORT_EVERY", 1)
    config = dataclasses.replace(config, steps=9)
    losses = {}
    for name, parts in {"four": [(4, 9)], "fewer": [(4, 3), (2, 6), (1, 9)]}.items():
        (tmp_path / name).mkdir()
        for world_size, last in parts:
            arguments = (world_size, tmp_path / name, config)
            forked(train_until, [(last, rank, *arguments) for rank in range(world_size)])
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines]
    assert len(losses["four"]) == 9
    assert losses["fewer"] == pytest.approx(losses["four"], rel=1e-6)
