"""Numbers of a run: one JSON line per report, and TensorBoard."""

import contextlib
import io
import json
import math
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboardX.record_writer import masked_crc32c  # type: ignore[import-untyped]

from mimflow_train.storage.files import written_whole

__all__ = ["Recorder", "follow", "follow_words"]


class Recorder:
    """Appends to ``metrics.jsonl`` and to the TensorBoard events of a run.

    Args:
        run_dir: The run.
        start: Step to continue from; what was recorded beyond it is dropped, since it comes again.
    """

    def __init__(self, run_dir: Path, start: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        text = self._path.read_text(errors="replace") if self._path.exists() else ""
        kept = "".join(f"{line}\n" for line in text.splitlines() if _step(line) <= start)
        if kept != text:
            with written_whole(self._path) as draft:
                draft.write_text(kept)
        self._lines: TextIO | None = self._path.open("a", buffering=1)
        self._board = _Board(run_dir / "tensorboard", start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step; what is not finite is ``null``, for want of such a number.

        Raises:
            OSError: If the disk does not take them; the next ones may be.
        """
        try:
            self._lines = self._lines or self._path.open("a", buffering=1)
            known = {name: each if math.isfinite(each) else None for name, each in values.items()}
            self._lines.write(json.dumps({"step": step, "time": time.time(), **known}) + "\n")
        except OSError:
            self._close_lines()
            raise
        finally:
            self._board.write(step, values)

    def close(self) -> None:
        """Flush both files."""
        self._close_lines()
        self._board.close()

    def _close_lines(self) -> None:
        lines, self._lines = self._lines, None
        if lines is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take has been told
                lines.close()


class _Board:
    """Event files, written here: after a full disk tensorboardX's writer waits for ever.

    Nor is the disk waited for, as its flush does: behind a checkpoint of gigabytes that is long.

    Args:
        folder: Receives the files; made if absent.
        start: Step from which on earlier files are outdated.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._folder, self._start = folder, start
        self._file: BinaryIO | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step; after an error the next ones begin a new file."""
        now = time.time()
        summaries = (
            Summary(value=[Summary.Value(tag=name, simple_value=value)])
            for name, value in values.items()
        )
        events = [Event(step=step, wall_time=now, summary=each) for each in summaries]
        try:
            file = self._file = self._file or self._new_file()
            file.write(b"".join(map(_record, events)))
            file.flush()
        except OSError:
            self.close()
            raise

    def _new_file(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = len([*self._folder.iterdir()])  # tells files of one second apart
        name = f"events.out.tfevents.{int(time.time())}.mimflow.{number}"
        file = (self._folder / name).open("xb")
        begun = SessionLog(status=SessionLog.START)  # what is from this step on is outdated
        file.write(_record(Event(wall_time=time.time(), file_version="brain.Event:2")))
        file.write(_record(Event(step=self._start, wall_time=time.time(), session_log=begun)))
        return file

    def close(self) -> None:
        """Close the file that is open."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take has been told
                file.close()


def _record(event: Event) -> bytes:
    """Return an event as TensorFlow's TFRecord: its length and its bytes, each with a checksum."""
    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checks = (struct.pack("<I", masked_crc32c(each)) for each in (length, content))
    return b"".join(part for pair in zip((length, content), checks, strict=True) for part in pair)


def _step(line: str) -> float:
    """Return the step of a line, infinity for one that a crash has torn, or that is no report."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def follow(path: Path) -> Iterator[list[tuple[int, dict[str, float]]]]:
    """Yield, for ever, the reports of a ``metrics.jsonl`` that were not seen before.

    Args:
        path: The file; it need not exist yet, and a restart of the run may cut it and repeat steps.
    """
    seen, position = set[int](), 0
    while True:
        lines, position = _lines_after(path, position)
        fresh = [line for line in lines if _step(line) < float("inf") and hash(line) not in seen]
        seen.update(map(hash, fresh))
        reports = map(json.loads, fresh)
        yield [(int(each.pop("step")), _numbers(each)) for each in reports]


def _numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if each is None else each for name, each in report.items()}


def follow_words(folder: Path) -> Iterator[list[str]]:
    """Yield, for ever, the lines that were added to the files ``*.words`` of a folder.

    Args:
        folder: Where workers leave what :func:`mimflow_train.telemetry.console.said_to` takes from
            them.
    """
    positions: dict[Path, int] = {}
    while True:
        said: list[str] = []
        for path in _words(folder):
            lines, positions[path] = _lines_after(path, positions.get(path, 0))
            said += lines
        yield said


def _words(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.words"))
    except OSError:
        return []


def _lines_after(path: Path, position: int) -> tuple[list[str], int]:
    """Return the whole lines after a position, and the position after them.

    A file on a network may be away for a while, which is no reason to end what writes it.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, io.SEEK_END) < position:
                position = 0
            file.seek(position)
            whole, _, _ = file.read().rpartition(b"\n")
    except OSError:
        return [], position
    if not whole:
        return [], position
    return whole.decode(errors="replace").splitlines(), position + len(whole) + 1
