"""What rank 0 tells of the steps: recorded in the run folder, shown on the console."""

from collections.abc import Mapping
from pathlib import Path

from mimflow_train.console import Progress
from mimflow_train.events import Recorder

__all__ = ["Reports"]


class Reports:
    """The record of a run, and what a person sees of it; silent until ``begin``.

    Args:
        run_dir: The run folder.
        until: Step at which training will end.
        shown: Whether to show progress; a Ray worker's driver does it in its place.
    """

    def __init__(self, run_dir: Path, until: int, *, shown: bool = True) -> None:
        self._run_dir, self._until, self._shown = run_dir, until, shown
        self._recorder: Recorder | None = None
        self._progress: Progress | None = None

    def begin(self, step: int) -> None:
        """Record from a step on; what was recorded beyond it comes again."""
        self.close()
        self._recorder = Recorder(self._run_dir, step)
        self._progress = Progress(step, self._until) if self._shown else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record and show the values of a step."""
        assert self._recorder is not None, "begin comes first"
        self._recorder.write(step, values)
        if self._progress is not None:
            self._progress.show(step, values)

    def close(self) -> None:
        """Flush what is recorded and leave the progress as it stands."""
        for each in (self._progress, self._recorder):
            if each is not None:
                each.close()
