"""Checkpoints: folders of safetensors with a manifest, written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import to_dict
from mimflow_train.engine.sharding import whole
from mimflow_train.errors import StorageError, remedy
from mimflow_train.model import MIMFlow
from mimflow_train.state import DecoderState, State, TrainState
from mimflow_train.storage.arithmetic import precision_on, versions
from mimflow_train.storage.files import to_disk, written_whole
from mimflow_train.storage.provenance import code_commit
from mimflow_train.storage.retries import with_retries
from mimflow_train.storage.run_folder import (
    checkpoint_folder,
    checkpoints,
    init_of,
    read_manifest,
)

__all__ = [
    "Snapshot",
    "chosen_weights",
    "damage",
    "export_weights",
    "fingerprint",
    "joint_checkpoint",
    "latest_checkpoint",
    "load_model",
    "load_state",
    "manifest_of",
    "snapshot",
    "write_checkpoint",
]

FORMAT = 1
_KEEP = 2


class Snapshot(NamedTuple):
    """A training state as it was at one step, in the host's memory.

    Attributes:
        phase: ``joint`` or ``decoder``.
        step: Optimiser steps done.
        draw_stream: Step for which the run was last rolled back, 0 for none; masks and noise
            depend on it.
        skips: Newest steps in a row without a finite gradient.
        precision: In which it was trained, and on what: ``bf16 on cuda``, say.
        tensors: Everything a checkpoint holds, by file and name.
        init: What the run began with, where it begins now, if not at random.
    """

    phase: str
    step: int
    draw_stream: int
    skips: int
    precision: str
    tensors: dict[str, dict[str, Tensor]]
    init: Mapping[str, Any] | None = None


def snapshot(state: State, *, keep: bool = True) -> Snapshot:
    """Copy a training state, so that training can go on while the copy is written.

    Args:
        state: Where it is sharded, all workers call this together.
        keep: Whether this worker needs the copy; if not, it only sends its parts.
    """
    copies: dict[str, dict[str, Tensor]] = {}
    for name, part in state.tensors().items():
        copies[name] = {}
        for key, value in part.items():
            together = whole(value.detach())
            if keep:
                copies[name][key] = together.to("cpu", copy=True).contiguous()
    device = next(state.model.parameters()).device
    precision = precision_on(device, state.config.precision)
    return Snapshot(state.phase, state.step, state.draw_stream, state.skips, precision, copies)


def write_checkpoint(state: Snapshot, config: TrainConfig, run_dir: Path) -> Path:
    """Write ``checkpoints/step_*`` of a run, then drop all but the newest two.

    The last one of the joint phase stays: the decoder phase is judged against it.

    The folder appears under its name only when every file and the manifest are on disk.

    Raises:
        StorageError: If the disk does not take it; earlier checkpoints stay as they are.
    """
    folder = checkpoint_folder(run_dir, state.step)
    draft = folder.with_name(f".{folder.name}.draft")
    try:
        for left in folder.parent.glob(".step_*.draft"):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        _require_space(draft, state)
        for name, tensors in state.tensors.items():
            _save(tensors, draft / f"{name}.safetensors")
        manifest = _manifest(draft, state, config) | {"init": state.init or init_of(run_dir)}
        (draft / "manifest.json").write_text(json.dumps(manifest))
        for path in (*draft.iterdir(), draft):
            to_disk(path)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        to_disk(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise StorageError(
            f"Expected to write a checkpoint to {folder}; {error}. {remedy(error)}"
        ) from error
    with contextlib.suppress(OSError):  # what cannot be found now is removed after the next
        for old in checkpoints(run_dir)[:-_KEEP]:
            if old != joint_checkpoint(config, run_dir):
                _drop(old)
    return folder


def _require_space(folder: Path, state: Snapshot) -> None:
    """Raise before anything is written that the disk could not hold, and so leave no other short.

    Raises:
        OSError: If there is too little.
    """
    needed = sum(each.nbytes for part in state.tensors.values() for each in part.values())
    total, _, free = shutil.disk_usage(folder)
    if needed > free and total:  # a drive that does not know its size says that it has none
        gib = 2**30
        text = f"it takes {needed / gib:.2f} GiB and {free / gib:.2f} GiB are free"
        raise OSError(errno.ENOSPC, f"No space left on device: {text}")


def _drop(folder: Path) -> None:
    """Remove a checkpoint, under another name first; what cannot be removed yet is later."""
    # A network drive keeps a file that another process reads.
    with contextlib.suppress(OSError):
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.draft")))


def latest_checkpoint(
    run_dir: Path, warn: Callable[[str], None], *, set_aside: bool = False
) -> Path | None:
    """Return the newest checkpoint whose files are what its manifest says; None for a new run.

    Args:
        run_dir: The run.
        warn: Receives one sentence for each damaged checkpoint.
        set_aside: Rename newer, damaged ones ``damaged_step_*``, since training on writes them
            again. For the process that trains alone.

    Raises:
        StorageError: If there are checkpoints and all are damaged; they stay as they are.
    """
    folders, damaged = checkpoints(run_dir), list[Path]()
    for folder in reversed(folders):
        found = damage(folder)
        if found is None:
            for each in damaged if set_aside else ():
                target = each.with_name(f"damaged_{each.name}")
                shutil.rmtree(target, ignore_errors=True)
                each.rename(target)
            return folder
        warn(f"Checkpoint {folder} is damaged ({found}); trying the one before it.")
        damaged.append(folder)
    if folders:
        raise StorageError(
            f"Expected a good checkpoint in {run_dir}; all {len(folders)} are damaged. "
            "Restore them from a copy, or move the folder away to start anew."
        )
    return None


def joint_checkpoint(config: TrainConfig, run_dir: Path) -> Path:
    """Return where the last checkpoint of the joint phase is, or will be."""
    return checkpoint_folder(run_dir, config.steps)


def load_state(folder: Path, config: TrainConfig, device: torch.device) -> State:
    """Return the training state that a checkpoint holds; waits if its storage is away."""

    def read(name: str) -> dict[str, Tensor]:
        return with_retries(lambda: load_file(folder / f"{name}.safetensors"))

    manifest = manifest_of(folder)
    kind = DecoderState if manifest.get("phase") == DecoderState.phase else TrainState
    state = kind(config, device)
    state.load(read, int(manifest["step"]))
    state.draw_stream = int(manifest.get("draw_stream", 0))
    state.skips = int(manifest.get("skips", 0))
    return state


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return what a good checkpoint says of itself; waits if its storage is away."""
    text = with_retries(lambda: (folder / "manifest.json").read_text())
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def load_model(folder: Path, config: TrainConfig, device: torch.device) -> MIMFlow:
    """Return the weights of a checkpoint that samples are made with, and nothing else of it."""
    weights = load_file(folder / f"{chosen_weights(config)}.safetensors")
    return MIMFlow.frozen(config.trained_model, weights, device)


def chosen_weights(config: TrainConfig) -> str:
    """Return the name, ``ema`` or ``model``, of the weights that samples are made with."""
    return "ema" if config.weights == "ema" else "model"


def fingerprint(folder: Path) -> str:
    """Return 16 hexadecimal digits that two checkpoints share only if every bit is the same.

    Two runs with equal fingerprints have learned the same, whatever ran them. A checkpoint whose
    manifest is torn has none: ``unknown``.
    """
    try:
        files = read_manifest(folder)["files"]
        digests = "".join(f"{name}{files[name]['sha256']}" for name in sorted(files))
    except (KeyError, TypeError):
        return "unknown"
    if not files:
        return "unknown"
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def export_weights(folder: Path, config: TrainConfig, target: Path) -> str:
    """Copy a checkpoint's weights that samples are made with to one file.

    Args:
        folder: The checkpoint.
        config: The run's configuration, which goes into the file's metadata.
        target: A .safetensors file.

    Returns:
        ``ema`` or ``model``: which weights these are.

    Raises:
        StorageError: If the disk does not take it; a file of that name stays as it is.
    """
    name = chosen_weights(config)
    metadata = {"config": json.dumps(to_dict(config)), "weights": name, "checkpoint": folder.name}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as draft:
            _save(load_file(folder / f"{name}.safetensors"), draft, metadata)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"Expected to write weights to {target}; {error}. {remedy(error)}"
        ) from error
    return name


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors for whom other files are written; safetensors lets only the owner read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    with contextlib.suppress(OSError):  # a drive may have no such rights
        path.chmod(mode)


def _manifest(folder: Path, state: Snapshot, config: TrainConfig) -> dict[str, Any]:
    paths = sorted(folder / f"{name}.safetensors" for name in state.tensors)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
    return {
        "format": FORMAT,
        "phase": state.phase,
        "step": state.step,
        "draw_stream": state.draw_stream,
        "skips": state.skips,
        "versions": versions(),
        "commit": code_commit(),
        "precision": state.precision,
        "files": files,
        "config": to_dict(config),
    }


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is.

    What cannot be read is tried again for a while: a file system on a network may be away.
    """
    try:
        return with_retries(lambda: _damage(folder))
    except OSError as error:
        return str(error)


def _damage(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, not {FORMAT}"
        for name, wanted in manifest["files"].items():
            if _sha256(folder / name) != wanted["sha256"]:
                return f"{name} does not match its checksum"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest is none: {error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
