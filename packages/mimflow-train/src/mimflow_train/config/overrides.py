"""``--set key=value`` and ``--config FILE``: change fields of a configuration; no torch."""

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from genmetrics.errors import did_you_mean
from mimflow_train.config import (
    ConvolutionalConfig,
    DecoderPhaseConfig,
    ModelConfig,
    TrainConfig,
)
from mimflow_train.config.file import from_dict, to_dict
from mimflow_train.errors import ConfigError

__all__ = ["merge", "override"]

_TEACHERS_KEY = "model.features"
_OF_THE_IMAGES = ("data.source", "data.class_names", "data.fingerprint", "model.flow.num_classes")
_OPTIONS = {"scale": "--scale", **dict.fromkeys(_OF_THE_IMAGES, "--data")}
_SHARED = {  # what several networks have to agree on: in each of them it is called so
    "image_size": {"encoder": "image_size", "decoder": "image_size"},
    "patch_size": {"encoder": "patch_size", "decoder": "patch_size"},
    "num_latents": {"encoder": "num_latents", "decoder": "num_latents", "flow": "num_tokens"},
    "latent_dim": {"encoder": "latent_dim", "decoder": "latent_dim", "flow": "token_dim"},
}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    types.NoneType: "none",
}
_EXAMPLES = {int: "2", float: "0.5", str: "'a'"}


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Return the configuration with some fields changed, such as ``optim.lr=2e-4``.

    All changes are made before the result is checked, so their order does not matter.

    Args:
        config: Where to start.
        assignments: Dotted field name, ``=``, and a Python literal or a plain word. Two sections
            take names: ``decoder_phase=rae`` is that preset with the recipe's steps and optimiser,
            ``model.features=dinov2,hog`` are the teachers to imitate, or none. Four names change
            all networks that have to agree: ``model.image_size``, ``model.patch_size``,
            ``model.num_latents`` and ``model.latent_dim``.

    Raises:
        ConfigError: If there is no such field, or a value is of another type or out of range.

    Example:
        >>> from mimflow_train.recipes import tiny
        >>> override(tiny(), ["optim.lr=2e-4"]).optim.lr
        0.0002
    """
    named = [assignment.partition("=") for assignment in assignments]
    named.sort(key=lambda each: each[0].count("."))  # a section whole, then what is in it
    for key, separator, text in named:
        if not separator:
            raise ConfigError(f"Expected --set key=value; got {key!r}. Write optim.lr=2e-4.")
        if key in _OPTIONS:
            raise ConfigError(
                f"Expected {_OPTIONS[key]}, which decides {key} and more; got --set {key}={text}. "
                f"Give {_OPTIONS[key]}."
            )
        if key == _TEACHERS_KEY:
            teachers = [] if text == "none" else text.split(",")
            config = dataclasses.replace(config, model=config.model.imitating(teachers))
    tree = to_dict(config)
    for key, _, text in named:
        if key != _TEACHERS_KEY:
            _merge(tree, config, _nested(key, text), "")
    try:
        changed: TrainConfig = from_dict(TrainConfig, tree)
    except ValueError as error:  # the config's own check of the new values
        raise ConfigError(f"--set {' '.join(assignments)}: {error}") from error
    return changed


def merge(config: TrainConfig, values: Mapping[str, Any], file: str) -> TrainConfig:
    """Return the configuration with those of its fields changed that a file has.

    What the images decide, their source and classes, stays the configuration's own.

    Args:
        config: Where to start.
        values: Nested as the configuration is. ``decoder_phase`` may be the name of a preset and
            ``model.features`` a list of teachers.
        file: Where the values are from, for messages.

    Raises:
        ConfigError: If there is no such field, or a value is of another type or out of range.

    Example:
        >>> from mimflow_train.recipes import tiny
        >>> merge(tiny(), {"optim": {"lr": 2e-4}}, "mine.toml").optim.lr
        0.0002
    """
    model = values.get("model")
    try:
        if isinstance(model, Mapping) and isinstance(model.get("features"), Mapping | list):
            networks = config.model.imitating([str(each) for each in model["features"]])
            config = dataclasses.replace(config, model=networks)
        tree = to_dict(config)
        _merge(tree, config, values, "")
        changed: TrainConfig = from_dict(TrainConfig, tree)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    return changed


def _merge(tree: dict[str, Any], config: Any, values: Mapping[str, Any], prefix: str) -> None:
    """Put a section's values into the tree, following the configuration for names and types."""
    for name, value in values.items():
        key = prefix + name
        if prefix == "model." and name in _SHARED:
            _merge(tree, config, _spread(config, name, value), prefix)
            _fit_grids(tree)
            continue
        _require_field(config, name, key)
        now = config[name] if isinstance(config, dict) else getattr(config, name)
        if key == "model.convolutional" and now is None and isinstance(value, Mapping):
            now = ConvolutionalConfig()
            tree[name] = tree[name] or to_dict(now)
        if key in _OF_THE_IMAGES or (key == _TEACHERS_KEY and isinstance(value, list)):
            continue  # decided already
        if key == "decoder_phase" and isinstance(value, str):
            preset = DecoderPhaseConfig.preset(value, steps=now.steps, optim=now.optim)
            tree[name] = to_dict(preset)
        elif isinstance(now, dict) or dataclasses.is_dataclass(now):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"Expected {key} as a section with {', '.join(tree[name])}; got {value!r}. "
                    f"Name one of its values, such as {key}.{next(iter(tree[name]), '')}."
                )
            _merge(tree[name], now, value, f"{key}.")
        else:
            tree[name] = _typed(value, typing.get_type_hints(type(config))[name], key)


def _spread(model: ModelConfig, name: str, value: Any) -> dict[str, Any]:
    """Return what a value that networks share is called in each of them."""
    spread: dict[str, Any] = {part: {field: value} for part, field in _SHARED[name].items()}
    if name in ("num_latents", "latent_dim"):
        spread["features"] = {teacher: {name: value} for teacher in model.features}
    return spread


def _fit_grids(model: dict[str, Any]) -> None:
    """Give teachers as many patches as images have, where these come out even."""
    side = model["encoder"]["image_size"] // max(1, model["encoder"]["patch_size"])
    for each in model["features"].values():
        each["grid"] = [side, side]


def _nested(key: str, value: str) -> dict[str, Any]:
    """Return the sections that a dotted name leads through, as a file has them."""
    *sections, name = key.split(".")
    nested: dict[str, Any] = {name: value}
    for section in reversed(sections):
        nested = {section: nested}
    return nested


def _require_field(config: Any, name: str, key: str) -> None:
    names: list[str] = []
    if isinstance(config, dict):
        names = list(config)
    elif dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config)]
        names += _SHARED if isinstance(config, ModelConfig) else ()
    if name not in names:
        advice = did_you_mean(name, names) or f" Choose from {', '.join(names)}."
        raise ConfigError(f"Expected a field of the configuration; there is no {key}.{advice}")


def _parse(text: str, hint: Any, key: str) -> Any:
    if text in typing.get_args(hint):  # a choice may be called "none"
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return _fitting(value, hint, key, text)


def _typed(value: Any, hint: Any, key: str) -> Any:
    """Return a value of a TOML or JSON file as the type that the field has."""
    if isinstance(value, str):
        return _parse(value, hint, key)
    return _fitting(tuple(value) if isinstance(value, list) else value, hint, key, value)


def _fitting(value: Any, hint: Any, key: str, given: Any) -> Any:
    value = _with_floats(value, hint)
    if not _fits(value, hint):
        raise ConfigError(f"Expected {key} as {_in_words(hint)}; got {given!r}.")
    return value


def _with_floats(value: Any, hint: Any) -> Any:
    """Return whole numbers as floats where the field is of these."""
    kinds = typing.get_args(hint)
    if isinstance(value, tuple) and float in kinds:
        return tuple(_with_floats(each, float) for each in value)
    is_float = hint is float or (float in kinds and int not in kinds)
    return float(value) if is_float and type(value) is int else value


def _in_words(hint: Any) -> str:
    """Return what a field takes, as a user writes it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_in_words, arguments))
    if origin is tuple:
        kinds = arguments[:1] * 2 if arguments[-1] is ... else arguments
        return f"a tuple such as ({', '.join(_EXAMPLES.get(kind, '...') for kind in kinds)})"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(value) == len(kinds) and all(
            _fits(each, kind) for each, kind in zip(value, kinds, strict=True)
        )
    if hint is type(None):
        return value is None
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
