"""A run folder: whether it may be gone on with, by which configuration, and how far it is."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mimflow_train.config import OPERATIONAL, TrainConfig
from mimflow_train.config.differences import differences
from mimflow_train.config.file import read_config, to_dict, write_config
from mimflow_train.errors import ConfigError
from mimflow_train.storage.files import read_json
from mimflow_train.storage.retries import listed

__all__ = [
    "FAILURE_FILE",
    "FILES_OF_A_RUN",
    "FILES_OF_ITS_END",
    "begins_with",
    "checkpoint_folder",
    "checkpoints",
    "forget_end",
    "init_of",
    "is_a_run",
    "last_step",
    "prepare_run",
    "read_manifest",
    "recorded",
    "require_begun",
    "require_own",
    "step_of",
    "steps_done",
    "told_of_init",
]

FAILURE_FILE = "failure.json"
FILES_OF_ITS_END = ("diagnostics.json", "reconstructions.png", "samples.png", "summary.json")
FILES_OF_A_RUN = (
    *FILES_OF_ITS_END,
    "ATTRIBUTION.txt",
    "bad_images.txt",
    "checkpoints",
    "config.json",
    "errors",
    "eval",
    FAILURE_FILE,
    "metrics.jsonl",
    "milestones",
    "ray",
    "report.html",
    "samples",
    "tensorboard",
    "wandb",
)


def forget_end(run_dir: Path) -> None:
    """Remove what was made at a run's end, since it goes on; scripts look whether it is there."""
    for name in FILES_OF_ITS_END:
        (run_dir / name).unlink(missing_ok=True)


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, oldest first; a copy of another name is none.

    Raises:
        OSError: If they cannot be listed, also when tried again; a run that has some is no new one.
    """
    folders = listed(run_dir / "checkpoints")
    return sorted(each for each in folders if step_of(each.name) is not None)


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Return where a run's checkpoint of a step is, or will be."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step that a checkpoint, its weights or its picture is named after.

    Args:
        name: Without a file's ending; another name, as of a copy, says none.

    Example:
        >>> step_of("step_00000010"), step_of("step_00000010.bak")
        (10, None)
    """
    found = re.fullmatch(r"step_(\d+)", name)
    return int(found[1]) if found else None


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself; empty if it says nothing that can be read."""
    return read_json(folder / "manifest.json")


def require_begun(run_dir: Path, resume: str) -> None:
    """Raise if a run must be resumed that was never begun."""
    if resume == "must" and not _begun(run_dir):
        raise ConfigError(f"Expected a run to resume in {run_dir}; there is none. Check --out.")


def _begun(run_dir: Path) -> bool:
    return bool(checkpoints(run_dir))


def require_own(config: TrainConfig, run_dir: Path, resume: str) -> None:
    """Raise if a folder is not this run's; nothing in it is changed.

    Raises:
        ConfigError: If the folder holds another run that is not to be started anew, or other files.
    """
    if not is_a_run(run_dir):
        _require_nothing_else(run_dir)
    elif resume != "never" and _begun(run_dir):
        before = recorded(run_dir)
        # No step reads guidance: samples alone are drawn with it.
        free = (*OPERATIONAL, "guidance", *_not_yet_used(config, run_dir))
        if config.data.fingerprint and config.data.fingerprint == _fingerprint(before):
            free += ("data.source",)  # the same images, elsewhere
        changed = differences(before, to_dict(config), free) if before else []
        if changed:
            raise ConfigError(
                f"Expected the configuration that {run_dir} was started with; changed: "
                f"{_in_short(changed)}. Give another --out, or --resume never to start it anew."
            )


def begins_with(init: Path | None, run_dir: Path, resume: str) -> bool:
    """Return whether a run is to begin with weights of another; one that has begun reads none.

    Args:
        init: The other run's folder or its weights; None to begin at random.
        run_dir: The run folder.
        resume: ``never`` if what is there is started anew.

    Raises:
        ConfigError: If the weights are the run's own, or it has begun with others.
    """
    if init is None:
        return False
    if resume != "never" and _begun(run_dir):
        began = (init_of(run_dir) or {}).get("from")
        if began != str(init.resolve()):
            raise ConfigError(
                f"Expected no other --init than {run_dir} began with, {began or 'none'}; got "
                f"{init}. Leave it out to go on, or give another --out."
            )
        return False
    if init.resolve().is_relative_to(run_dir):
        raise ConfigError(
            f"Expected --init of another run than --out; got {init}. Give another --out."
        )
    return True


def init_of(run_dir: Path) -> dict[str, Any] | None:
    """Return what the checkpoints say the run began with; None if that was at random."""
    said = (read_manifest(each).get("init") for each in reversed(checkpoints(run_dir)))
    return next((each for each in said if each), None)


def told_of_init(init: Mapping[str, Any]) -> str:
    """Return a sentence on what a run began with."""
    but = f"; {' and '.join(init['at_random'])} at random" if init["at_random"] else ""
    return (
        f"The networks began with the {init['weights']} weights of {init['checkpoint']} in "
        f"{init['from']} (sha256 {init['sha256'][:16]}){but}."
    )


def prepare_run(
    config: TrainConfig,
    run_dir: Path,
    resume: str,
    begin: Callable[[], object] = lambda: None,
) -> None:
    """Make the run folder of a run, empty if it is to be started anew.

    Args:
        config: The run.
        run_dir: The folder.
        resume: ``never`` if what is there is started anew.
        begin: Called before the folder gets the configuration by which it is a run, so that one
            that is killed here has not begun without it.

    Raises:
        ConfigError: As :func:`require_own`.
    """
    require_own(config, run_dir, resume)
    if resume == "never" and is_a_run(run_dir):
        _remove_run(run_dir)
    begin()
    write_config(config, run_dir)


def _not_yet_used(config: TrainConfig, run_dir: Path) -> tuple[str, ...]:
    """Return the fields that no step so far has looked at, so that a run may go on with others.

    As long as the decoder phase has not begun, these are all of it; and the length of the joint
    phase, unless the learning rate's schedule ends with it.
    """
    newest = checkpoints(run_dir)[-1]
    if read_manifest(newest).get("phase") != "joint":
        return ()
    is_longer = config.optim.schedule == "constant" and steps_done(run_dir) <= config.steps
    return ("decoder_phase", *(["steps"] if is_longer else []))


def _require_nothing_else(run_dir: Path) -> None:
    """Raise if a folder for a new run is one of something else, such as images."""
    paths = sorted(run_dir.glob("*"))
    others = [each.name for each in paths if each.is_dir() and each.name not in FILES_OF_A_RUN]
    others += [each.name for each in paths if each.name == "config.json"]
    if others:
        raise ConfigError(
            f"Expected a new folder or one of a run as --out; {run_dir} holds "
            f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}. Name another."
        )


def _remove_run(run_dir: Path) -> None:
    """Remove a run's files, and nothing else that its folder holds."""
    for each in FILES_OF_A_RUN:
        path = run_dir / each
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_a_run(run_dir: Path) -> bool:
    """Return whether a folder has a checkpoint of ours, or a configuration, however damaged."""
    folders = checkpoints(run_dir)
    if any("config" in read_manifest(folder) for folder in folders):
        return True
    file = run_dir / "config.json"
    try:
        values = json.loads(file.read_text()) if file.exists() else {}
    except ValueError:
        return bool(folders)
    return isinstance(values, dict) and {"scale", "model", "data"} <= values.keys()


def recorded(run_dir: Path) -> dict[str, Any]:
    """Return the configuration of a run, by its checkpoints if need be; empty if none has it.

    Raises:
        ConfigError: If its file is damaged, and there is no checkpoint that has it.
    """
    manifests = (read_manifest(folder) for folder in reversed(checkpoints(run_dir)))
    saved: dict[str, Any] = next(
        (manifest["config"] for manifest in manifests if "config" in manifest), {}
    )
    if not (run_dir / "config.json").exists():
        return saved
    try:
        return to_dict(read_config(run_dir))
    except ConfigError:
        if not saved:
            raise
        return saved


def _fingerprint(recorded: dict[str, Any]) -> object:
    return recorded.get("data", {}).get("fingerprint")


def _in_short(changed: list[str]) -> str:
    """Name the changes; of another scale, which changes most of a configuration, that alone."""
    scale = [each for each in changed if each.startswith("scale was ")]
    if scale:
        return f"{scale[0]}, and with it {len(changed) - 1} other values"
    return "; ".join(changed)


def last_step(config: TrainConfig, run_dir: Path, phase: str) -> int:
    """Return the step to train to.

    Raises:
        ConfigError: If the decoder phase has no steps, or no joint phase to follow.
    """
    if phase == "joint":
        return config.steps
    if phase == "decoder" and not config.decoder_phase.steps:
        raise ConfigError(
            "Expected decoder_phase.steps above 0 for --phase decoder; got 0. "
            "Set it with --set decoder_phase.steps=N."
        )
    done = steps_done(run_dir)
    if phase == "decoder" and done < config.steps:
        raise ConfigError(
            f"Expected a joint phase of {config.steps} steps in {run_dir} for --phase decoder; "
            f"got {done} steps. Train it first with --phase joint."
        )
    return config.all_steps


def steps_done(run_dir: Path) -> int:
    """Return the step of a run's newest checkpoint, whose files are not looked at; 0 without."""
    return max((step_of(folder.name) or 0 for folder in checkpoints(run_dir)), default=0)
