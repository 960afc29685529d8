"""Numbers of a run: one JSON line per report, and TensorBoard."""

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboardX.record_writer import RecordWriter  # type: ignore[import-untyped]
from tensorboardX.summary import scalar  # type: ignore[import-untyped]

__all__ = ["Recorder", "follow"]


class Recorder:
    """Appends to ``metrics.jsonl`` and to the TensorBoard events of a run.

    Args:
        run_dir: The run.
        start: Step to continue from; what was recorded beyond it is dropped, since it comes again.
    """

    def __init__(self, run_dir: Path, start: int) -> None:
        path = run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in lines if _step(line) <= start))
        self._lines = path.open("a", buffering=1)
        self._board = _Board(run_dir / "tensorboard", start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step.

        Raises:
            OSError: If the disk does not take them; the next ones may be.
        """
        try:
            self._lines.write(json.dumps({"step": step, "time": time.time(), **values}) + "\n")
        finally:
            self._board.write(step, values)

    def close(self) -> None:
        """Flush both files."""
        with contextlib.suppress(OSError):  # what a full disk did not take has been told
            self._lines.close()
        self._board.close()


class _Board:
    """Event files, written at once: tensorboardX's own writer waits for ever after a full disk.

    Args:
        folder: Receives the files; made if absent.
        start: Step from which on earlier files are outdated.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._folder, self._start = folder, start
        self._file: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step; after an error the next ones begin a new file."""
        try:
            if self._file is None:
                self._open()
            for name, value in values.items():
                self._add(Event(step=step, wall_time=time.time(), summary=scalar(name, value)))
            self._file.flush()
        except OSError:
            self.close()
            raise

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = len([*self._folder.iterdir()])  # tells files of one second apart
        name = f"events.out.tfevents.{int(time.time())}.mimflow.{number}"
        self._file = RecordWriter(str(self._folder / name))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        begun = SessionLog(status=SessionLog.START)  # what is from this step on is outdated
        self._add(Event(step=self._start, wall_time=time.time(), session_log=begun))

    def _add(self, event: Event) -> None:
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file that is open."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take has been told
                file.close()


def _step(line: str) -> float:
    """Return the step of a line, infinity for one that a crash has torn."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


def follow(path: Path) -> Iterator[list[tuple[int, dict[str, float]]]]:
    """Yield, for ever, the reports of a ``metrics.jsonl`` that are newer than the last ones seen.

    Args:
        path: The file; it need not exist yet, and a restart of the run may cut it.
    """
    newest, position = -1, 0
    while True:
        lines, position = _lines_after(path, position)
        values = [json.loads(line) for line in lines if newest < _step(line) < float("inf")]
        newest = max([newest, *(int(each["step"]) for each in values)])
        yield [(int(each.pop("step")), each) for each in values]


def _lines_after(path: Path, position: int) -> tuple[list[str], int]:
    """Return the whole lines after a position, and the position after them."""
    if not path.exists():
        return [], 0
    with path.open("rb") as file:
        if file.seek(0, io.SEEK_END) < position:
            position = 0
        file.seek(position)
        whole, _, _ = file.read().rpartition(b"\n")
    if not whole:
        return [], position
    return whole.decode().splitlines(), position + len(whole) + 1
