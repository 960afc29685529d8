"""What a worker of a cluster does when a machine will go, or when it is one too many."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from mimflow_train.context import Place, RayContext, leave_spare_workers


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


def test_a_stop_file_ends_the_run_also_when_a_machine_will_go(context, clock, tmp_path):
    worker = context(lambda: {"deadline_ms": 17})
    (tmp_path / "stop").touch()
    for clock.seconds in (1, 7):
        assert worker.should_stop()
        assert not worker.stopped_to_save()


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
    forks = multiprocessing.get_context("fork")  # torch is imported once for all
    said = forks.Queue()
    workers = [
        forks.Process(target=meet, args=(rank, tmp_path / "meet", said)) for rank in range(5)
    ]
    for worker in workers:
        worker.start()
    answers = sorted(said.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert answers == [(0, 3, 7), (1, 3, 7), (2, 3, 7), (3, False, 0), (4, False, 0)]
