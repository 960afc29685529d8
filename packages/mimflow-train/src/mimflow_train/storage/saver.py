"""Saves a run as it goes: checkpoints in a second thread, sample grids, milestones."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages
from mimflow_train.errors import StorageError
from mimflow_train.evaluation.pictures import save_grid
from mimflow_train.evaluation.run_pictures import sample_rows
from mimflow_train.model import MIMFlow
from mimflow_train.plan import Plan
from mimflow_train.state import State
from mimflow_train.storage.checkpoint import (
    Snapshot,
    chosen_weights,
    export_weights,
    snapshot,
    write_checkpoint,
)
from mimflow_train.storage.run_folder import step_of
from mimflow_train.telemetry.console import say
from tarflow_prior import NonFiniteError

__all__ = ["Saver"]

_ALLOWED_FAILURES = 3


class Saver:
    """Writes checkpoints, milestones and sample grids; a disk that is full twice ends no run.

    Training waits while tensors are copied to the host's memory and while samples are drawn, not
    while files are written; they are there when the next save is begun, or after ``wait``. A save
    between two that are planned, of a run that was told to stop, has no picture.

    Args:
        config: The run.
        data: Images; only its classes are looked at.
        run_dir: The run folder.
        plan: Says which saves have a picture, and which weights are kept for good.
        writes: Whether this worker writes; the others only send their parts of what is sharded.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: LabelledImages,
        run_dir: Path,
        plan: Plan,
        *,
        writes: bool = True,
    ) -> None:
        self.config, self.data, self.run_dir, self.plan = config, data, run_dir, plan
        self.writes = writes
        self.failures = 0
        self._left: set[int] = set()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._drawing: Future[None] | None = None

    def begin(self, step: int) -> None:
        """Let milestones beyond the step that training goes on from be written anew.

        There are some in a copy of a run that lacks its newest checkpoints.

        Args:
            step: That of the checkpoint, 0 if there is none.
        """
        self._left = {each for each in _steps_of(self.run_dir / "milestones") if each > step}

    def __call__(self, state: State) -> None:
        """Save a state, with a grid of samples; at the last step of a phase, to the end.

        All workers call this where the state is sharded, else the one that writes.

        Raises:
            StorageError: At the third failure in a row, and at the last step of a phase.
        """
        self._settle(fatal=False)
        copies = snapshot(state, keep=self.writes)
        if not self.writes:
            return
        self._writing = self._thread.submit(self._write, copies)
        if state.step % self.plan.checkpoint_every == 0 or state.step == state.end:
            self._draw(state, copies)
        if state.step == state.end:
            self._settle(fatal=True)

    def wait(self) -> None:
        """Return when the newest checkpoint is on the disk.

        Raises:
            StorageError: If it could not be written.
        """
        self._settle(fatal=True)

    def _write(self, state: Snapshot) -> None:
        folder = write_checkpoint(state, self.config, self.run_dir)
        kept = self.run_dir / "milestones"
        if self.plan.is_milestone(state.step, _steps_of(kept) - self._left):
            export_weights(folder, self.config, kept / f"{folder.name}.safetensors")
            self._left.discard(state.step)

    def _draw(self, state: State, copies: Snapshot) -> None:
        """Draw samples now; the thread makes a file of them."""
        path = self.run_dir / "samples" / f"step_{state.step:08d}.png"
        try:
            rows, names = sample_rows(_model(state, copies), self.config, self.data)
        except (NonFiniteError, torch.OutOfMemoryError) as error:
            _no_picture(path, error)
            return
        self._drawing = self._thread.submit(_write_picture, rows, names, path)

    def _settle(self, *, fatal: bool) -> None:
        """Wait for the thread and judge what it did."""
        drawing, self._drawing = self._drawing, None
        if drawing is not None:
            drawing.result()
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
            self.failures = 0
        except StorageError as error:
            self.failures += 1
            if fatal or self.failures == _ALLOWED_FAILURES:
                raise
            say(f"Warning: {error} Training goes on; earlier checkpoints are as they were.")


def _steps_of(milestones: Path) -> set[int]:
    """Return the steps of which weights are kept; none where that cannot be read."""
    with suppress(OSError):
        steps = {step_of(path.stem) for path in milestones.glob("step_*.safetensors")}
        return {step for step in steps if step is not None}
    return set()


def _model(state: State, copies: Snapshot) -> MIMFlow:
    """Return what draws samples; where weights are sharded, from what is here together."""
    if not state.is_sharded:
        return state.chosen
    device = next(state.model.parameters()).device
    weights = copies.tensors[chosen_weights(state.config)]
    return MIMFlow.frozen(state.config.trained_model, weights, device)


def _write_picture(rows: list[Tensor], names: list[str], path: Path) -> None:
    try:
        save_grid(rows, names, path)
    except OSError as error:
        _no_picture(path, error)


def _no_picture(path: Path, error: Exception) -> None:
    say(f"Warning: no picture {path}; {str(error).rstrip('.')}. Training goes on.")
