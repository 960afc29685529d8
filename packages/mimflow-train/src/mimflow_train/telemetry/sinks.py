"""Where the numbers of a run may go besides its own folder: Weights & Biases."""

import importlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mimflow_train.errors import ConfigError

__all__ = ["WandbSink", "require_wandb"]

_PROJECT = "mimflow"


def require_wandb() -> Any:
    """Return the package ``wandb``.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            "Expected the package wandb with --log wandb; it is not installed. "
            "Install mimflow-train[wandb], or leave out --log."
        ) from error


class WandbSink:
    """Sends the reports of a run to Weights & Biases; a run never ends because that fails.

    A run that is continued goes on under the same W&B run: its id is in ``wandb/id``.

    Args:
        run_dir: The run.
        config: The run's configuration, as plain values.
        say: Receives the address, or how to send what is written offline, and a sentence the first
            time that something fails.
    """

    def __init__(
        self, run_dir: Path, config: Mapping[str, Any], say: Callable[[str], object]
    ) -> None:
        self._say = say
        self._run: Any = None
        self._try(lambda: self._start(run_dir, config))

    def _start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        wandb = require_wandb()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=run_dir.name,
            id=_identity(run_dir / "wandb" / "id"),
            dir=str(run_dir),
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        # W&B's own steps only grow; what is trained again after a roll-back would be ignored.
        self._run.define_metric("*", step_metric="step")
        if self._run.offline:
            self._say(f"W&B is offline; send it with wandb sync {Path(self._run.dir).parent}")
        else:
            self._say(f"W&B: {self._run.url}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step."""
        if self._run is not None:
            self._try(lambda: self._run.log({**values, "step": step}))

    def close(self) -> None:
        """Wait until everything is sent."""
        if self._run is not None:
            self._try(lambda: self._run.finish())

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever a service or its client may raise
            self._run = None
            self._say(f"Warning: W&B failed ({error}); the run goes on without it.")


def _identity(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex)
    return path.read_text()
