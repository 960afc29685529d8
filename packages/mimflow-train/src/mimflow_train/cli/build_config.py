"""From the options of ``mimflow-train`` to the configuration of a run; imports no torch."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genmetrics.errors import did_you_mean
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import read_values
from mimflow_train.config.overrides import merge, override
from mimflow_train.data.glyphs import CLASS_NAMES
from mimflow_train.data.layout import read_layout
from mimflow_train.device.machine import torchrun_place
from mimflow_train.errors import ConfigError, DataError
from mimflow_train.recipes import IMAGENET_CLASSES, RECIPES
from mimflow_train.storage.run_folder import is_a_run, recorded
from mimflow_train.telemetry.console import say

if TYPE_CHECKING:
    from mimflow_train.cli.train import TrainOptions

__all__ = ["build_config", "require_scale"]

_MOST_EPOCHS = 2000  # an ablation of the paper is 50, and the default run on emoji 13


class _Images(NamedTuple):
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    num_train: int  # 0 if that is not known here


def build_config(options: "TrainOptions") -> TrainConfig:
    """Return the recipe with the values of the file, and over them the options, applied.

    Where nothing says what to train and ``--out`` is a run, it is that run as it began.

    Args:
        options: Those of ``mimflow-train``.

    Raises:
        ConfigError: If the scale is unknown or a value is out of range.
        DataError: If the folder of images is missing, empty, or not laid out in classes.
    """
    file = options.config or _run_to_go_on(options)
    values = {} if file is None else read_values(file) if options.config else recorded(file)
    scale = _scale(options, values)
    images = _images(scale, options, values)
    config = RECIPES[scale](images.class_names, images.source)
    config = merge(config, values, str(file))
    try:
        data = dataclasses.replace(config.data, fingerprint=images.fingerprint)
        config = dataclasses.replace(config, data=data)
        if options.seed is not None:
            config = dataclasses.replace(config, seed=options.seed)
        if options.steps is not None:
            config = dataclasses.replace(config, steps=options.steps)
        if options.micro_batch is not None:
            config = dataclasses.replace(config, micro_batch=_micro_batch(options.micro_batch))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = override(config, options.set)
    if images.num_train:
        _warn_of_epochs(config, images.num_train)
    return config


def _run_to_go_on(options: "TrainOptions") -> Path | None:
    is_named = any(each is not None for each in (options.scale, options.init))
    if options.out is None or options.resume == "never" or is_named:
        return None
    return options.out if is_a_run(options.out) else None


def _tell(line: str) -> None:
    """Say something once for all of torchrun's workers."""
    rank, _ = torchrun_place() or (0, 1)
    if rank == 0:
        say(line)


def _warn_of_epochs(config: TrainConfig, num_train: int) -> None:
    epochs = config.steps * config.global_batch / num_train
    if epochs > _MOST_EPOCHS:
        _tell(
            f"Warning: {config.steps:,} steps of {config.global_batch} images are {epochs:,.0f} "
            f"epochs of these {num_train:,}. --steps says how many to train."
        )


def _micro_batch(text: str) -> int:
    if text != "auto" and not text.isdecimal():
        raise ConfigError(f"Expected --micro-batch auto or a number; got {text}. Give 8, or auto.")
    return 0 if text == "auto" else int(text)


def _scale(options: "TrainOptions", values: Mapping[str, Any]) -> str:
    """Return the scale that is asked for, by the option or the file, which must not disagree."""
    filed = values.get("scale")
    if options.scale is not None and filed not in (None, options.scale):
        raise ConfigError(
            f"Expected --scale {filed}, which {options.config} is for; got {options.scale}. "
            "Leave out --scale, or the file's scale."
        )
    scale = str(options.scale or filed or "tiny")
    require_scale(scale)
    return scale


def require_scale(scale: str) -> None:
    """Raise if there is no scale of that name."""
    if scale not in RECIPES:
        advice = did_you_mean(scale, RECIPES) or f" Choose {' or '.join(RECIPES)}."
        raise ConfigError(f"Expected --scale {'|'.join(RECIPES)}; got {scale}.{advice}")


def _images(scale: str, options: "TrainOptions", values: Mapping[str, Any]) -> _Images:
    """Look for the images, and say what is there."""
    section = values.get("data")
    filed = section.get("source") if isinstance(section, dict) else None
    source = filed if options.data is None else options.data
    if source is None and scale == "tiny":
        source = "emoji"
    if not isinstance(source, str | None) or source == "":
        raise ConfigError(f"Expected data.source of {options.config} as a folder; got {source!r}.")
    if source == "emoji":
        return _Images(CLASS_NAMES, "emoji", "", 0)
    if source is not None:
        root = Path(source).resolve()
        if source == filed and not root.exists():
            raise DataError(
                f"Expected the images of {options.config or options.out} in {root}; they are not "
                "there. Say where they are with --data DIR."
            )
        layout = read_layout(root, _tell)
        _tell(layout.described)
        return _Images(layout.class_names, str(root), layout.fingerprint, len(layout.train))
    if options.dry_run:
        return _Images(IMAGENET_CLASSES, "imagenet", "", 0)
    raise ConfigError(
        f"Expected --data with --scale {scale}; got none. Give a folder of images such as "
        "ImageNet's, --data emoji, or --dry-run to see what a run costs."
    )
