"""What the workers tell, recorded in the run folder and shown on the console."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import to_dict
from mimflow_train.plan import Plan
from mimflow_train.telemetry.console import Progress, say
from mimflow_train.telemetry.events import Recorder, follow, follow_words
from mimflow_train.telemetry.sinks import WandbSink

__all__ = ["Readout", "RunLog"]


class RunLog:
    """The record of a run, and what a person sees of it; silent until ``begin``.

    Args:
        config: The run.
        run_dir: The run folder.
        plan: Where training will end, and whether W&B is told.
        shown: Whether to show progress; a Ray worker's driver does it in its place.
    """

    def __init__(
        self, config: TrainConfig, run_dir: Path, plan: Plan, *, shown: bool = True
    ) -> None:
        self._config, self._run_dir, self._plan, self._shown = config, run_dir, plan, shown
        self._recorder: Recorder | None = None
        self._start: int | None = None
        self._progress: Progress | None = None
        self._wandb: WandbSink | None = None
        self._told_full = False

    def begin(self, step: int) -> None:
        """Record from a step on; what was recorded beyond it comes again.

        On a full disk the record is begun with the next values that it takes.
        """
        self._close_files()
        self._recorder, self._start = None, step
        with self._warning(f"after step {step}"):
            self._recorder = Recorder(self._run_dir, step)
        self._progress = Progress(step, self._plan.until) if self._shown else None
        if self._plan.log == "wandb" and self._wandb is None:
            self._wandb = WandbSink(self._run_dir, to_dict(self._config), say)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record and show the values of a step; a full disk costs lines, not the run."""
        assert self._start is not None, "begin comes first"
        with self._warning(f"of step {step}"):
            bad = _count_lines(self._run_dir / "bad_images.txt")
            values = {**values, "bad_images": float(bad)} if bad else values
            self._recorder = self._recorder or Recorder(self._run_dir, self._start)
            self._recorder.write(step, values)
        if self._progress is not None:
            self._progress.show(step, values)
        if self._wandb is not None:
            self._wandb.write(step, values)

    def close(self) -> None:
        """Flush what is recorded and leave the progress as it stands."""
        self._close_files()
        if self._wandb is not None:
            self._wandb.close()

    @contextmanager
    def _warning(self, which: str) -> Iterator[None]:
        """Say the first time that values cannot be recorded, and go on."""
        try:
            yield
        except OSError as error:
            if not self._told_full:
                say(f"Warning: the values {which} cannot be recorded ({error}).")
            self._told_full = True

    def _close_files(self) -> None:
        for each in (self._progress, self._recorder):
            if each is not None:
                each.close()


class Readout:
    """Shows what workers report and say from now on, for a process that only started them.

    Args:
        run_dir: The run.
        words: Folder where the workers leave what they say.
        until: Step at which training will end.
    """

    def __init__(self, run_dir: Path, words: Path, until: int) -> None:
        self._reports, self._words = follow(run_dir / "metrics.jsonl"), follow_words(words)
        next(self._reports)  # of an earlier launch, of which no warning is to come again
        self._until, self._shown = until, 0
        self._progress: Progress | None = None

    def show(self) -> bool:
        """Show what has come since the last time; return whether anything has."""
        words, reports = next(self._words), next(self._reports)
        for line in words:
            say(line)
        for step, values in reports:
            if self._progress is None or step <= self._shown:  # after a restart
                self.close()
                self._progress = Progress(step, self._until)
            self._progress.show(step, values)
            self._shown = step
        return bool(words or reports)

    def close(self) -> None:
        """Leave the progress as it stands."""
        if self._progress is not None:
            self._progress.close()


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
