"""Steps that fail for no reason of the user's: noted, tried again, and not for ever."""

import traceback
from pathlib import Path

from mimflow_train.errors import RetriesError

__all__ = ["StepError", "note_failure"]

_TRIES = 3
_RULE = "-" * 72 + "\n"


class StepError(Exception):
    """An unexpected error within a training step; its cause is the error.

    Args:
        step: Optimiser steps done before.
    """

    def __init__(self, step: int) -> None:
        super().__init__(
            f"Step {step} failed; its traceback is in the folder errors of the run as well. "
            "The same command tries it again."
        )
        self.step = step


def note_failure(run_dir: Path, rank: int, error: StepError) -> None:
    """Write the traceback to ``errors/`` of the run.

    Args:
        run_dir: The run.
        rank: The worker that met the error.
        error: Which step, and why.

    Raises:
        RetriesError: If the same step has now failed three times on this worker.
    """
    path = run_dir / "errors" / f"step_{error.step:08d}.rank_{rank}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("".join(traceback.format_exception(error.__cause__)) + _RULE)
    if path.read_text().count(_RULE) >= _TRIES:
        raise RetriesError(
            f"Expected step {error.step} to succeed; it failed {_TRIES} times, now with "
            f"{type(error.__cause__).__name__}: {error.__cause__}. The tracebacks, the first on "
            f"top, are in {path}; remove that file to try again."
        ) from error
