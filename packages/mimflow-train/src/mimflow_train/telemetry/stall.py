"""Says when no step has ended for long, and where each thread of a worker is meanwhile."""

import faulthandler
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mimflow_train.telemetry.console import duration, say

__all__ = ["StallWatch"]

_SECONDS = 600.0
_LOOKS = 10  # in that time


class StallWatch:
    """Looks whether steps end; where none does, each worker notes what its threads are doing.

    Workers that wait for each other raise nothing for half an hour, and images whose storage hangs
    never do. The notes are in ``errors/`` of the run, one for each stall, and rank 0 says so.
    Nothing is ended.

    Args:
        run_dir: The run.
        rank: This worker.
        seconds: How long a step, or what comes before the first, may take unnoticed.
    """

    def __init__(self, run_dir: Path, rank: int, *, seconds: float = _SECONDS) -> None:
        self._folder, self._rank, self._step = run_dir / "errors", rank, 0
        self._seconds, self._over = seconds, threading.Event()

    def stepped(self, step: int) -> None:
        """Take note that a step has ended, or that training goes on from there.

        Args:
            step: Steps done.
        """
        self._step = step

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look during a block, in a thread of its own."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(timeout=1.0)  # it may be writing to a storage that hangs

    def _look(self) -> None:
        seen, looks = self._step, 0
        while not self._over.wait(self._seconds / _LOOKS):
            seen, looks = self._step, looks + 1 if self._step == seen else 0
            if looks == _LOOKS:
                self._tell(seen)

    def _tell(self, step: int) -> None:
        name, since = f"stall_{step:08d}", f"step {step}" if step else "the start"
        if self._rank == 0:
            say(
                f"Warning: no step has ended for {duration(self._seconds)}, since {since}. What "
                f"each worker is doing is written to {self._folder / name}.*"
            )
        with suppress(OSError):  # what was said is all that can be done
            self._folder.mkdir(exist_ok=True)
            with (self._folder / f"{name}.rank_{self._rank}.txt").open("w") as file:
                faulthandler.dump_traceback(file)
