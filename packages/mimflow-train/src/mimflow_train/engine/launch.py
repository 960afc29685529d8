"""Trains a run in this process, among torchrun's workers or under Ray Train: one loop in all."""

from pathlib import Path
from typing import NamedTuple

from mimflow_train.config import TrainConfig
from mimflow_train.engine.workers import Workers
from mimflow_train.plan import Plan

__all__ = ["Launch"]


class Launch(NamedTuple):
    """Who starts the workers, and where.

    Attributes:
        engine: ``local``, ``torchrun`` or ``ray``.
        device: ``cpu`` or ``cuda``; in this process any device of torch.
        workers: How many; torchrun has started its own.
        address: Ray cluster to train on, ``HOST:PORT`` or ``auto``; None for one of this machine
            that lives as long as the run.
    """

    engine: str
    device: str
    workers: Workers = Workers(1, 1)
    address: str | None = None

    def train(self, config: TrainConfig, run_dir: Path, plan: Plan) -> int | None:
        """Train until the plan's end, or until asked to stop.

        Args:
            config: The run.
            run_dir: The run folder, which all workers see.
            plan: How far to go and what to keep.

        Returns:
            The signal that ended the run early, or None.

        Raises:
            MimflowError: If a worker ended with one, or workers kept dying.
        """
        if self.engine == "ray":
            from mimflow_train.engine.launch_ray import run_ray  # imports Ray

            return run_ray(config, run_dir, self, plan)

        import torch

        from mimflow_train.run import run_local, run_torchrun

        if self.engine == "torchrun":
            return run_torchrun(config, run_dir, self.device, plan)
        return run_local(config, run_dir, torch.device(self.device), plan)
