"""Trains what an experiment needs and is not there yet; equal configurations share a run."""

from typing import NamedTuple

from mimflow_train.checkpoint import checkpoints, fingerprint, joint_checkpoint, load_model
from mimflow_train.cli.preflight import require_weights
from mimflow_train.config import TrainConfig
from mimflow_train.config_file import write_config
from mimflow_train.console import say
from mimflow_train.errors import DivergedError, MimflowError, StorageError, WorkerError
from mimflow_train.finish import trained_model
from mimflow_train.lock import locked
from mimflow_train.model import MIMFlow
from mimflow_train.plan import Plan
from mimflow_train.reproduce.session import Session
from mimflow_train.run import run_local

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
        latent_scale: What the flow's samples are multiplied by before they are decoded.
    """

    model: MIMFlow
    config: TrainConfig
    checkpoint: str
    latent_scale: float = 1.0


def trained(session: Session, config: TrainConfig, *, decoder_phase: bool = False) -> Trained:
    """Return a run's networks; train or continue it first if it is not done.

    Args:
        session: Where runs are kept, and the device.
        config: The run.
        decoder_phase: Whether the decoder's own phase follows the joint one.

    Raises:
        InterruptedRunError: If a signal ended the training.
        WeightsError: If a frozen network's weights cannot be had.
        DivergedError: If the run does not stay finite.
    """
    run_dir = session.run_dir(config)
    until = config.all_steps if decoder_phase else config.steps
    with locked(run_dir):
        newest = max((int(each.name[5:]) for each in checkpoints(run_dir)), default=0)
        if newest < until:
            require_weights(config, decoder_phase=decoder_phase)
            write_config(config, run_dir)
            say(f"Training to step {until} of {config.global_batch} images in {run_dir}")
            _train(session, config, until)
        if decoder_phase:
            folder = checkpoints(run_dir)[-1]
            return Trained(
                trained_model(config, run_dir, session.device), config, fingerprint(folder)
            )
        folder = joint_checkpoint(config, run_dir)
        if not folder.exists():
            raise StorageError(
                f"Expected the joint phase's last checkpoint in {folder}; there is none. "
                "Remove the run's folder and run the same command again."
            )
        return Trained(load_model(folder, config, session.device), config, fingerprint(folder))


def _train(session: Session, config: TrainConfig, until: int) -> None:
    run_dir, plan = session.run_dir(config), Plan(until=until)
    if session.workers > 1:
        from mimflow_train.launch_ray import run_ray

        try:
            stopped = run_ray(
                config, run_dir, session.device.type, workers=session.workers, plan=plan
            )
        except WorkerError as error:
            if error.exit_code == DivergedError.exit_code:
                raise DivergedError(str(error)) from error
            raise
    else:
        stopped = run_local(config, run_dir, session.device, plan)
    if stopped is not None:
        raise InterruptedRunError(stopped)
