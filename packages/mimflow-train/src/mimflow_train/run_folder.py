"""A run folder: whether it may be gone on with, by which configuration, and how far it is."""

import shutil
from pathlib import Path

from mimflow_train.config import OPERATIONAL, TrainConfig
from mimflow_train.config_file import read_config, to_dict, write_config
from mimflow_train.errors import ConfigError

__all__ = ["last_step", "prepare_run", "require_begun", "steps_done"]

_FILES_OF_A_RUN = (
    "ATTRIBUTION.txt",
    "bad_images.txt",
    "checkpoints",
    "config.json",
    "diagnostics.json",
    "errors",
    "eval",
    "metrics.jsonl",
    "milestones",
    "ray",
    "reconstructions.png",
    "report.html",
    "samples",
    "samples.png",
    "summary.json",
    "tensorboard",
    "wandb",
)


def require_begun(run_dir: Path, resume: str) -> None:
    """Raise if a run must be resumed that was never begun."""
    if resume == "must" and not _begun(run_dir):
        raise ConfigError(f"Expected a run to resume in {run_dir}; there is none. Check --out.")


def _begun(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("*"))


def prepare_run(config: TrainConfig, run_dir: Path, resume: str) -> None:
    """Make the run folder, or check that the one that is there is this run's.

    Raises:
        ConfigError: If the folder holds another run, or ``resume`` forbids what would happen.
    """
    earlier = read_config(run_dir) if (run_dir / "config.json").exists() else None
    begun = earlier is not None and _begun(run_dir)
    if resume == "never" and earlier is not None:
        for each in _FILES_OF_A_RUN:
            path = run_dir / each
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    elif begun:
        changed = _differences(to_dict(earlier), to_dict(config))
        if changed:
            raise ConfigError(
                f"Expected the configuration that {run_dir} was started with; changed: "
                f"{'; '.join(changed)}. Give another --out, or --resume never to start it anew."
            )
    write_config(config, run_dir)


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
    names = [path.name for path in (run_dir / "checkpoints").glob("step_*")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def _differences(old: object, new: object, name: str = "") -> list[str]:
    """Name what changed, but for what only says where and how fast a run is computed."""
    if name in OPERATIONAL:
        return []
    if name == "data.fingerprint" and old != new:
        return ["the images (files were added, removed, renamed or written anew)"]
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(set(old) | set(new))
            for line in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        return [] if list(old) == list(new) else [f"{name} was {list(old)}, now {list(new)}"]
    return [] if old == new else [f"{name} was {old}, now {new}"]
