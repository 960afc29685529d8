"""Numbers of a run: one JSON line per report, and TensorBoard."""

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
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lines = (run_dir / "metrics.jsonl").open("a", buffering=1)
        self._board = SummaryWriter(str(run_dir / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""
        self._lines.write(json.dumps({"step": step, "time": time.time(), **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush both files."""
        self._lines.close()
        self._board.close()


def follow(path: Path) -> Iterator[list[tuple[int, dict[str, float]]]]:
    """Yield, for ever, the reports that were appended to a ``metrics.jsonl`` since the last look.

    Args:
        path: The file; it need not exist yet. What it already holds is passed over.
    """
    position = path.stat().st_size if path.exists() else 0
    while True:
        reports = []
        if path.exists():
            with path.open() as file:
                file.seek(position)
                while (line := file.readline()).endswith("\n"):
                    values = json.loads(line)
                    reports.append((int(values.pop("step")), values))
                    position = file.tell()
        yield reports
