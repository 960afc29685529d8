"""``failure.json``: that a run has ended with what only its user can put right, for scripts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from mimflow_train.cli.command import Answer, answer
from mimflow_train.errors import ConfigError
from mimflow_train.storage.files import written_whole
from mimflow_train.storage.lock import locked
from mimflow_train.storage.retries import is_away
from mimflow_train.storage.run_folder import FAILURE_FILE, is_a_run

__all__ = ["failure_noted", "forget_failure"]


@contextmanager
def failure_noted(run_dir: Path | None, *, is_held: bool) -> Iterator[None]:
    """Leave exit code and sentence of what ends a block in a run's folder, unless it is a signal.

    A script that would start the command again looks for the file; the run removes it when it goes
    on. Only the folder of a run gets one, and not while another process is at work in it.

    Args:
        run_dir: The run folder; None if it is not known.
        is_held: Whether this process, or rank 0 of its peers, holds the folder.
    """
    try:
        yield
    except Exception as error:
        answered = None if is_away(error) else answer(error)  # it may be there at the next start
        with suppress(OSError, ConfigError):  # the latter if another process is at work in it
            if answered is not None and run_dir is not None and is_a_run(run_dir):
                with nullcontext() if is_held else locked(run_dir):
                    _note(answered, run_dir)
        raise


def forget_failure(run_dir: Path) -> None:
    """Remove the note of an earlier launch of a run; one that another process trains has none."""
    with suppress(OSError):
        if is_a_run(run_dir):
            (run_dir / FAILURE_FILE).unlink(missing_ok=True)


def _note(answered: Answer, run_dir: Path) -> None:
    with written_whole(run_dir / FAILURE_FILE) as draft:
        draft.write_text(json.dumps(answered._asdict()))
