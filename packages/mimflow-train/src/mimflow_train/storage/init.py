"""A run that begins with the weights of another: which of them fit, and its first checkpoint."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import read_config, read_metadata
from mimflow_train.errors import ConfigError
from mimflow_train.model import MIMFlow
from mimflow_train.pretrained import weights_file
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import Snapshot, chosen_weights

__all__ = ["first_snapshot", "require_weights_that_fit"]

_NAMED = 3


def first_snapshot(init: Path, config: TrainConfig) -> Snapshot:
    """Return step 0 of a run: weights and average are what samples of another are made with.

    Classes are taken by name. Those that the other run has not, and feature decoders that it has
    not or has of another shape, begin at random, as all weights of a run do otherwise.

    Args:
        init: The other run's folder, of which the newest checkpoint counts, or a file of weights.
        config: The run that begins.

    Raises:
        ConfigError: If there is no such run, or other weights of it do not fit.
        StorageError: If the other run has no good checkpoint.
    """
    source = read_config(init)
    file = weights_file(source, init)
    found, state = load_file(file), TrainState(config, torch.device("cpu"))
    at_random = _fit(found, state.model.state_dict(), init, source=source, config=config)
    state.model.load_state_dict(found)
    state.ema.load_state_dict(found)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    record = {
        "from": str(init.resolve()),
        "checkpoint": file.parent.name if file != init else read_metadata(file).get("checkpoint"),
        "weights": chosen_weights(source),
        "sha256": digest,
        "at_random": at_random,
    }
    return Snapshot(
        phase=state.phase,
        step=0,
        draw_stream=0,
        skips=0,
        precision="nothing yet",
        tensors=state.tensors(),
        init=record,
    )


def require_weights_that_fit(init: Path, config: TrainConfig) -> None:
    """Raise as :func:`first_snapshot` would, by names and shapes of a checkpoint that is whole.

    Args:
        init: The other run's folder, or a file of weights.
        config: The run that would begin.

    Raises:
        ConfigError: If there is no such run, or other weights of it do not fit.
        StorageError: If the other run has no good checkpoint.
    """
    source = read_config(init)
    with torch.device("meta"):
        wanted = MIMFlow(config.trained_model).state_dict()
        with safe_open(weights_file(source, init), framework="pt") as file:
            names = file.keys()
            found = {name: torch.empty(file.get_slice(name).get_shape()) for name in names}
    _fit(found, wanted, init, source=source, config=config)


def _fit(
    found: dict[str, Tensor],
    wanted: dict[str, Tensor],
    init: Path,
    *,
    source: TrainConfig,
    config: TrainConfig,
) -> list[str]:
    """Make ``found`` what the run begins with; return the names of what is at random."""
    at_random = _with_own_classes(found, wanted, source.data.class_names, config.data.class_names)
    at_random += _with_own_features(found, wanted)
    _require_fit(found, wanted, init)
    return at_random


def _with_own_classes(
    found: dict[str, Tensor],
    wanted: dict[str, Tensor],
    theirs: Sequence[str],
    ours: Sequence[str],
) -> list[str]:
    """Replace the tables of classes by ours, with the rows that they have; name what they lack."""
    for name in wanted:
        old = found.get(name, torch.empty(0))
        if name.endswith(".classes") and old.shape[1:] == wanted[name].shape[1:]:
            rows = [old[theirs.index(each)] if each in theirs else None for each in ours]
            pairs = zip(rows, wanted[name], strict=True)
            found[name] = torch.stack([new if row is None else row for row, new in pairs])
    new = len(set(ours) - set(theirs))
    return [f"{new} of {len(ours)} classes"] if new else []


def _with_own_features(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """Replace feature decoders by ours where they differ; name these."""
    replaced = []
    theirs, ours = _by_teacher(found), _by_teacher(wanted)
    for teacher in sorted({*theirs, *ours}):
        old, new = theirs.get(teacher, {}), ours.get(teacher, {})
        if {name: each.shape for name, each in old.items()} != {
            name: each.shape for name, each in new.items()
        }:
            for name in old:
                del found[name]
            found.update(new)
            replaced += [f"the feature decoder of {teacher}"] if new else []
    return replaced


def _by_teacher(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("feature_decoders."):
            parts.setdefault(name.split(".")[1], {})[name] = value
    return parts


def _require_fit(found: dict[str, Tensor], wanted: dict[str, Tensor], init: Path) -> None:
    """Raise if names or shapes differ."""
    named = [_misfit(name, found, wanted) for name in {**wanted, **found}]
    wrong = [each for each in named if each]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ConfigError(
            f"Expected in {init} the weights of networks like this run's; got "
            f"{', '.join(wrong[:_NAMED])}{more}. Add --config {init} for its sizes, or leave out "
            "--init."
        )


def _misfit(name: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Say why a weight does not fit; empty if it does."""
    if name not in found:
        return f"no {name}"
    if name not in wanted:
        return f"{name}, of which this run has none"
    old, new = found[name].shape, wanted[name].shape
    return "" if old == new else f"{name} of shape {tuple(old)}, not {tuple(new)}"
