"""The networks of a checkpoint, each as its own package loads it."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import to_dict
from mimflow_train.errors import StorageError, remedy
from mimflow_train.storage.checkpoint import chosen_weights, load_model
from mimflow_train.storage.files import to_disk

__all__ = ["export_networks"]


def export_networks(folder: Path, config: TrainConfig, target: Path) -> str:
    """Write encoder, flow and decoders of a checkpoint to a sub-folder each, by their own packages.

    ``run.json`` beside them says which weights they are, and has the run's configuration.

    Args:
        folder: The checkpoint.
        config: The run's configuration; its autoencoder is no convolutional one.
        target: A folder that is empty or not there, which appears when all is written.

    Returns:
        ``ema`` or ``model``: which weights these are.

    Raises:
        StorageError: If the disk does not take it, or a weight is not finite.
    """
    model = load_model(folder, config, torch.device("cpu"))
    networks: dict[str, Any] = {
        "encoder": model.encoder,
        "flow": model.flow,
        "decoder": model.decoder,
        **{f"feature_decoders/{name}": each for name, each in model.feature_decoders.items()},
    }
    name = chosen_weights(config)
    said = {"checkpoint": folder.name, "weights": name, "config": to_dict(config)}
    target, place = target.resolve(), "folder"
    draft = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        for place, network in networks.items():
            network.save_pretrained(draft / place)
        place = "run.json"
        (draft / place).write_text(json.dumps(said, indent=2) + "\n")
        draft.chmod((target if target.is_dir() else draft / "encoder").stat().st_mode)
        for path in (*draft.rglob("*"), draft):
            to_disk(path)
        place = "folder"
        draft.replace(target)
    except (OSError, SafetensorError, ValueError) as error:
        advice = "" if isinstance(error, ValueError) else f" {remedy(error)}"
        raise StorageError(
            f"Expected to write networks to {target}; {place}: {error}.{advice}"
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return name
