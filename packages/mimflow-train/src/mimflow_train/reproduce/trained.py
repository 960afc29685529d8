"""Trains what an experiment needs and is not there yet; equal configurations share a run."""

from pathlib import Path
from typing import NamedTuple

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import write_config
from mimflow_train.engine.launch import Launch
from mimflow_train.errors import DivergedError, MimflowError, StorageError, WorkerError
from mimflow_train.model import MIMFlow
from mimflow_train.plan import Plan, checkpoint_interval
from mimflow_train.reproduce.session import Session
from mimflow_train.storage.checkpoint import (
    damage,
    fingerprint,
    joint_checkpoint,
    latest_checkpoint,
    load_model,
)
from mimflow_train.storage.lock import locked_in_turn
from mimflow_train.storage.run_folder import read_manifest, steps_done
from mimflow_train.teachers import require_weights
from mimflow_train.telemetry.console import say

__all__ = ["InterruptedRunError", "Trained", "trained"]


class InterruptedRunError(MimflowError):
    """A run that was asked to stop, and has saved."""

    def __init__(self, signal: int) -> None:
        super().__init__("Saved. Run the same command again to go on.")
        self.exit_code = 128 + signal


class Trained(NamedTuple):
    """Networks of a run, and what they came from.

    Attributes:
        model: Averaged or raw weights, as the run's ``weights`` says.
        config: The run.
        checkpoint: Sixteen digits that two models share only if every bit is the same.
    """

    model: MIMFlow
    config: TrainConfig
    checkpoint: str


def trained(session: Session, config: TrainConfig, *, decoder_phase: bool = False) -> Trained:
    """Return a run's networks; train or continue it first if it is not done.

    Args:
        session: Where runs are kept, and the device.
        config: The run; a fixed autoencoder is in its first checkpoint, which is there already.
        decoder_phase: Whether the decoder's own phase follows the joint one.

    Raises:
        InterruptedRunError: If a signal ended the training.
        WeightsError: If a frozen network's weights cannot be had.
        DivergedError: If the run does not stay finite.
        StorageError: If the checkpoint that is to be judged is gone or damaged.
    """
    run_dir = session.run_dir(config)
    until = config.all_steps if decoder_phase else config.steps
    with locked_in_turn(run_dir):
        newest = latest_checkpoint(run_dir, say)
        done = 0 if newest is None else read_manifest(newest)["step"]
        if done < until:
            is_joint = done < config.steps
            require_weights(config, joint_phase=is_joint, decoder_phase=decoder_phase)
            write_config(config, run_dir)
            say(f"Training to step {until} of {config.global_batch} images in {run_dir}")
            _train(session, config, run_dir, until)
            newest = latest_checkpoint(run_dir, say)
        assert newest is not None
        folder = newest if decoder_phase else joint_checkpoint(config, run_dir)
        found = None if folder == newest else damage(folder)
        if found is not None:
            raise StorageError(
                f"Expected the joint phase's last checkpoint in {folder}; got {found}. "
                "Remove the run's folder and run the same command again."
            )
        return Trained(load_model(folder, config, session.device), config, fingerprint(folder))


def _train(session: Session, config: TrainConfig, run_dir: Path, until: int) -> None:
    plan = Plan(until=until, checkpoint_every=checkpoint_interval(config.scale))
    launch = session.launch or Launch("local", str(session.device))
    try:
        stopped = launch.train(config, run_dir, plan)
    except WorkerError as error:
        if error.exit_code == DivergedError.exit_code:
            raise DivergedError(str(error), steps_done(run_dir)) from error
        raise
    if stopped is not None:
        raise InterruptedRunError(stopped)
