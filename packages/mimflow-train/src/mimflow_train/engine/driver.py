"""The side of a job that only started the workers: progress, signals, and messages on waits."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from genmetrics import GenmetricsError
from mimflow_train import errors
from mimflow_train.engine.stop import StopRequest
from mimflow_train.telemetry.console import say
from mimflow_train.telemetry.run_log import Readout

__all__ = ["BEGAN_FILE", "FAILURE_FILE", "RAY_FOLDER", "STOP_FILE", "watch"]

RAY_FOLDER = "ray"  # in the run folder: Ray's own files and the three below, for one launch
STOP_FILE = "stop-requested"
FAILURE_FILE = "failure.json"
BEGAN_FILE = "began"
_POLL_SECONDS = 1.0
_WAIT_SECONDS = 120.0  # in which workers begin where there are devices for them
_QUIET_SECONDS = 600.0


def watch(job: Callable[[], Any], run_dir: Path, stop: StopRequest, until: int) -> dict[str, str]:
    """Run a job in a second thread; this one has the signals and the progress.

    Args:
        job: Waits for the workers; its answer's ``return_value`` is what they end with.
        run_dir: The run.
        stop: What the user asks for. Before any worker has begun that ends this process.
        until: Step at which training will end.

    Raises:
        WorkerError: If it was a worker's mistake of which there is no note.
        RetriesError: If the job failed otherwise, and no worker has left a note on why.
    """
    box: dict[str, Any] = {}

    def fit() -> None:
        try:
            box["outcome"] = job().return_value
        except Exception as error:  # shown to the user below, whatever it is
            box["error"] = error

    folder = run_dir / RAY_FOLDER
    readout, waits = Readout(run_dir, folder, until), _Waits(folder / BEGAN_FILE)
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    is_asked = False
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if stop.received is not None and not is_asked:
            is_asked = True
            if not waits.have_begun():
                say(f"No worker has begun; {run_dir} is as it was. Run the same command again.")
                stop.end()
            with suppress(OSError):  # a full disk; the second signal ends it
                (folder / STOP_FILE).touch()
        waits.look(has_news=readout.show())
    readout.close()
    note = folder / FAILURE_FILE
    if "error" in box and note.exists():  # Ray has started no worker that could read it
        box["outcome"] = json.loads(note.read_text())
    elif isinstance(mistake := _mistake(box.get("error")), errors.MimflowError | GenmetricsError):
        raise errors.WorkerError(str(mistake), mistake.exit_code)  # the disk took no note
    elif "error" in box:
        why = str(box["error"]).strip().splitlines()[-1].rstrip(".")  # below its tracebacks
        raise errors.RetriesError(
            f"Expected the workers to finish; Ray Train gave up: {why}. "
            f"What was saved is in {run_dir}; run the same command again."
        )
    outcome: dict[str, str] = box["outcome"]
    return outcome


def _mistake(error: object) -> object:
    """Return what ended the job in Ray's controller, such as a worker's mistake."""
    return getattr(error, "controller_failure", None)


class _Waits:
    """Says once of each wait that it is one: for devices at first, and for workers later."""

    def __init__(self, began: Path) -> None:
        self._began, self._since, self._told = began, time.monotonic(), False

    def have_begun(self) -> bool:
        return self._began.exists()

    def look(self, *, has_news: bool) -> None:
        if has_news:
            self._since, self._told = time.monotonic(), False
            return
        passed = time.monotonic() - self._since
        if self._told or passed < _WAIT_SECONDS:
            return
        if not self.have_begun():
            say(
                "No worker has begun yet: they start slowly, or wait for free devices. "
                "Ctrl-C ends this."
            )
            self._told = True
        elif passed >= _QUIET_SECONDS:
            say(
                f"No worker has told anything for {_QUIET_SECONDS / 60:.0f} minutes. If a machine "
                "is gone, Ray waits for another. Ctrl-C twice ends this; what was saved stays."
            )
            self._told = True
