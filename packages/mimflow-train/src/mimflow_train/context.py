"""All that the training loop sees of the world around it."""

import os
import signal
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist

__all__ = ["Context", "LocalContext", "StopRequest", "TorchrunContext"]


@runtime_checkable
class Context(Protocol):
    """One worker among ``world_size``.

    Attributes:
        rank: Number of this worker.
        world_size: Number of workers.
        device: Where its tensors live.
    """

    rank: int
    world_size: int
    device: torch.device

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Publish the values of a step; called by rank 0."""

    def should_stop(self) -> bool:
        """Whether the run was asked to save and end; the same answer on every rank."""


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a question that the loop asks between steps.

    Slurm sends the last one ahead of a job's end (``--signal=USR1@120``). The second signal ends
    the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen within a block; to be entered in the main thread."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        before = [signal.signal(number, self._handle) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: types.FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number


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
        self._report, self._stop = report, stop

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Publish the values of a step."""
        self._report(step, values)

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
        self._report, self._stop = report, stop

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Meet the other workers for the length of a block."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
        try:
            yield
        finally:
            dist.destroy_process_group()

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Publish the values of a step."""
        self._report(step, values)

    def should_stop(self) -> bool:
        """Whether a signal came to any of the workers."""
        answer = torch.tensor(float(self._stop.received or 0), device=self.device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        if answer and self._stop.received is None:
            self._stop.received = int(answer)
        return bool(answer)
