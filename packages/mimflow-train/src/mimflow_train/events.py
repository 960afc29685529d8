"""Numbers of a run: one JSON line per report, and TensorBoard."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

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
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""
        self._lines.write(json.dumps({"step": step, "time": time.time(), **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush both files."""
        self._lines.close()
        self._board.close()


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
