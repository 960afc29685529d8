"""The networks of a trained run, for sampling, scores and other programs."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import read_config, read_metadata
from mimflow_train.errors import StorageError
from mimflow_train.model import MIMFlow
from mimflow_train.storage.checkpoint import chosen_weights, latest_checkpoint
from mimflow_train.storage.run_folder import step_of
from mimflow_train.telemetry.console import say

__all__ = ["judged_step", "load_trained", "trained_model", "weights_file"]


def load_trained(run: str | Path, device: str | torch.device = "cpu") -> MIMFlow:
    """Return the networks of a trained run, to be used and not trained.

    ``model.encoder`` encodes images in [-1, 1], ``model.flow`` is the prior of its latents,
    ``model.decoder`` decodes them, and ``model.generate`` draws images. ``model.config`` has their
    sizes; ``mimflow_train.config.file.read_config(run)`` the rest, with the names of the classes.

    Args:
        run: The run's folder, or a file of its weights: a milestone, or one of ``mimflow-inspect
            --export``.
        device: Where to put them.

    Raises:
        ConfigError: If there is no run, or it was made by another version.
        StorageError: If the run has no good checkpoint.
    """
    return trained_model(read_config(Path(run)), Path(run), torch.device(device))


def trained_model(config: TrainConfig, run: Path, device: torch.device) -> MIMFlow:
    """Return a run's model with the weights that ``config.weights`` names.

    Args:
        config: The run.
        run: Its folder, or a file of its weights.
        device: Where to put it.

    Raises:
        StorageError: If the run has no good checkpoint.
    """
    return MIMFlow.frozen(config.trained_model, load_file(weights_file(config, run)), device)


def weights_file(config: TrainConfig, run: Path) -> Path:
    """Return the file of a run's weights that samples are made with, of its newest checkpoint.

    Args:
        config: The run.
        run: Its folder, or that file itself.

    Raises:
        StorageError: If the run has no good checkpoint.
    """
    if run.suffix == ".safetensors":
        return run
    folder = latest_checkpoint(run, say)
    if folder is None:
        raise StorageError(f"Expected a checkpoint in {run}; there is none. Train it first.")
    return folder / f"{chosen_weights(config)}.safetensors"


def judged_step(run: Path) -> int | None:
    """Return the step that :func:`trained_model` has the weights of; None if nothing says it.

    Args:
        run: A run's folder, or a file of its weights.

    Raises:
        ConfigError: If the file is torn.
        StorageError: If all checkpoints of the run are damaged.
    """
    if run.suffix == ".safetensors":
        name = read_metadata(run).get("checkpoint", "")
    else:
        folder = latest_checkpoint(run, lambda _: None)  # not the newest, if that is damaged
        name = "" if folder is None else folder.name
    return step_of(name)
