"""All that the training loop sees of the world around it."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from mimflow_train.engine.stop import StopRequest

__all__ = [
    "Context",
    "LocalContext",
    "Place",
    "RayContext",
    "TorchrunContext",
    "leave_spare_workers",
]

_NOTICE_SECONDS = 5.0
_TIMEOUT = timedelta(minutes=30)


@runtime_checkable
class Context(Protocol):
    """One worker among ``world_size``.

    Attributes:
        rank: Number of this worker.
        world_size: Number of workers.
        device: Where its tensors live.
        report: Publishes a step and its values; called by rank 0.
    """

    rank: int
    world_size: int
    device: torch.device
    report: Callable[[int, Mapping[str, float]], None]

    def should_stop(self) -> bool:
        """Whether the run was asked to save and end; the same answer on every rank."""


class LocalContext:
    """The only worker, in this process.

    Args:
        device: Where its tensors live.
        report: Receives the step and its values.
        stop: Answers whether the user asked to end.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        device: torch.device,
        report: Callable[[int, Mapping[str, float]], None],
        stop: StopRequest,
    ) -> None:
        self.device = device
        self.report, self._stop = report, stop

    def should_stop(self) -> bool:
        """Whether a signal came."""
        return self._stop.received is not None


class TorchrunContext:
    """One worker of those that torchrun started; its place is in the environment.

    Args:
        kind: ``cpu`` or ``cuda``.
        report: Receives the step and its values on rank 0.
        stop: Answers whether the user asked to end.
    """

    def __init__(
        self,
        kind: str,
        report: Callable[[int, Mapping[str, float]], None],
        stop: StopRequest,
    ) -> None:
        self.rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        place = os.environ["LOCAL_RANK"]
        self.device = torch.device(f"cuda:{place}" if kind == "cuda" else kind)
        self.report, self._stop = report, stop
        self._hosts: dist.ProcessGroup | None = None

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Meet the other workers for the length of a block.

        After an error the group stays: leaving NCCL's waits for workers that wait for this one.
        The process is then to end at once, as :func:`mimflow_train.cli.command.leave` does.
        """
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT, device_id=_bound(self.device))
        self._hosts = _group_of_hosts()
        yield
        dist.destroy_process_group()

    def should_stop(self) -> bool:
        """Whether a signal came to any of the workers."""
        answer = torch.tensor(self._stop.received or 0)
        dist.all_reduce(answer, dist.ReduceOp.MAX, self._hosts)
        if answer and self._stop.received is None:
            self._stop.received = int(answer)
        return bool(answer)


class Place(NamedTuple):
    """A worker's number, how many there are, and where its tensors live."""

    rank: int
    world_size: int
    device: torch.device


class RayContext:
    """One worker of a Ray Train job; all of them make theirs together.

    Args:
        place: Among the workers that train.
        report: Receives the step and its values on rank 0, for the driver to read.
        stop_file: Asks all workers to save and end.
        notice: Says, the same on every rank, whether a machine is about to be taken away, None if
            not. All ranks call it at the same step, since it waits for all.
        clock: Returns seconds.
    """

    def __init__(
        self,
        place: Place,
        report: Callable[[int, Mapping[str, float]], None],
        stop_file: Path,
        *,
        notice: Callable[[], object | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self.world_size, self.device = place
        self.report, self._stop_file, self._notice, self._clock = report, stop_file, notice, clock
        self._asked = clock()
        self._noticed = self._only_to_save = False
        self._hosts = _group_of_hosts() if self.world_size > 1 else None

    def should_stop(self) -> bool:
        """Whether to save and end: if rank 0 sees the stop file, and once if a machine will go.

        In the second case :meth:`stopped_to_save` says that training is to go on.
        """
        now = self._clock()
        due = not self._noticed and now - self._asked >= _NOTICE_SECONDS
        stop = self.rank == 0 and self._is_asked_to_stop()
        asked = torch.tensor([stop, due], dtype=torch.uint8)
        if self.world_size > 1:
            dist.broadcast(asked, src=0, group=self._hosts)
        stop, due = asked.bool().tolist()
        if due:
            self._asked = now
            self._noticed = self._notice() is not None
        self._only_to_save = due and self._noticed and not stop
        return stop or self._only_to_save

    def _is_asked_to_stop(self) -> bool:
        try:
            return self._stop_file.exists()
        except OSError:  # a file system on a network, which may be away for a while
            return False

    def stopped_to_save(self) -> bool:
        """Whether the last answer of :meth:`should_stop` was for a machine that will go."""
        return self._only_to_save


def _group_of_hosts() -> dist.ProcessGroup:
    """Return a group of all workers for what is asked at every step, in which no GPU waits."""
    group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _bound(device: torch.device) -> torch.device | None:
    """Return the device to tell torch that a worker has, which only a GPU's group wants to know."""
    return device if device.type == "cuda" else None


def leave_spare_workers(rank: int, count: int, device: torch.device) -> None:
    """Replace the group of all workers by one of the first ``count``; the others are in none.

    Args:
        rank: This worker; number 0 is on the machine that MASTER_ADDR names.
        count: Workers that go on together.
        device: Where this worker's tensors live.
    """
    port = torch.zeros(1, dtype=torch.int64, device=device)
    if rank == 0:
        with socket.socket() as listener:
            listener.bind(("", 0))
            port.fill_(listener.getsockname()[1])
    dist.broadcast(port, src=0)
    backend = dist.get_backend()
    dist.destroy_process_group()
    if rank < count:
        url = f"tcp://{os.environ['MASTER_ADDR']}:{int(port)}"
        dist.init_process_group(
            backend, url, _TIMEOUT, rank=rank, world_size=count, device_id=_bound(device)
        )
