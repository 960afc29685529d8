"""What a run keeps on disk, and whether the disk has room for it."""

import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from mimflow_train.config import TrainConfig
from mimflow_train.evaluation.run_pictures import grid_pixels
from mimflow_train.model import MIMFlow
from mimflow_train.plan import Plan

__all__ = ["KeptOnDisk", "free_on_disk", "kept_on_disk", "shortage"]

_BYTES_PER_SAVED = 16  # float32 weight, moving average, two moments of AdamW
_BYTES_PER_PIXEL = 1.5  # of a PNG of photographs: benchmarks/checkpoint_stall.md
_GIB = 2**30
_KEPT = ("checkpoints", "milestones", "samples")


class KeptOnDisk(NamedTuple):
    """The files of a run at its end, or at most before.

    Attributes:
        checkpoint: Bytes of one of the joint phase; one of the second takes less.
        checkpoints: The newest two, one being written, and the joint phase's last if there is more.
        weights: Bytes of the weights alone.
        milestones: Of such weights.
        pictures: Of samples.
        drawn: Bytes of all pictures.
    """

    checkpoint: int
    checkpoints: int
    weights: int
    milestones: int
    pictures: int
    drawn: int

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.checkpoints * self.checkpoint + self.milestones * self.weights + self.drawn


def kept_on_disk(config: TrainConfig, plan: Plan, trained: int) -> KeptOnDisk:
    """Return what a run keeps.

    Args:
        config: The run.
        plan: How far it goes and what it keeps.
        trained: Numbers that its joint phase trains.
    """
    every, ends = plan.checkpoint_every, {min(config.steps, plan.until), plan.until}
    saved = ends | {*range(every, plan.until + 1, every)}
    return KeptOnDisk(
        checkpoint=_BYTES_PER_SAVED * trained,
        checkpoints=4 if plan.until > config.steps else 3,
        weights=4 * trained,
        # As Plan.is_milestone has it: of each multiple's first checkpoint.
        milestones=len({step // plan.milestone_every for step in saved} - {0}),
        pictures=len(saved),
        drawn=int(len(saved) * _BYTES_PER_PIXEL * grid_pixels(config)),
    )


def free_on_disk(path: Path) -> int | None:
    """Return the free bytes where a folder is or would be; None of a drive that does not know.

    Args:
        path: Need not exist.
    """
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    total, _, free = shutil.disk_usage(there)
    return free if total else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # it has just gone
        return 0


def shortage(config: TrainConfig, run_dir: Path, plan: Plan) -> str:
    """Return a warning if the disk has no room for what a run has yet to keep; else nothing.

    Args:
        config: The run.
        run_dir: Its folder, with what it has kept so far.
        plan: How far it goes and what it keeps.
    """
    with torch.device("meta"):
        model = MIMFlow(config.trained_model)
    needed = kept_on_disk(config, plan, sum(each.numel() for each in model.parameters())).total
    there = sum(_size(each) for kept in _KEPT for each in (run_dir / kept).rglob("*"))
    free = free_on_disk(run_dir)
    if free is None or free >= needed - there:
        return ""
    return (
        f"Warning: the run will keep {needed / _GIB:.1f} GiB in {run_dir}, of which "
        f"{there / _GIB:.1f} are there, and {free / _GIB:.1f} GiB are free. Make room, or give "
        "--out on another disk."
    )
