"""``--set key=value``: changes one field of a nested configuration; imports no torch."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from mimflow_train.config import DecoderPhaseConfig, TrainConfig
from mimflow_train.config_file import from_dict, to_dict
from mimflow_train.errors import ConfigError

__all__ = ["override"]

_TEACHERS_KEY = "model.features"
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
            take names: ``decoder_phase=rae`` is that preset with the recipe's steps, and
            ``model.features=dinov2,hog`` are the teachers to imitate, or none.

    Raises:
        ConfigError: If there is no such field, or a value is of another type or out of range.

    Example:
        >>> from mimflow_train.recipes import tiny
        >>> override(tiny(), ["optim.lr=2e-4"]).optim.lr
        0.0002
    """
    named = [assignment.partition("=") for assignment in assignments]
    for key, separator, text in named:
        if not separator:
            raise ConfigError(f"Expected --set key=value; got {key!r}. Write optim.lr=2e-4.")
        if key == _TEACHERS_KEY:
            teachers = [] if text == "none" else text.split(",")
            config = dataclasses.replace(config, model=config.model.imitating(teachers))
    tree = to_dict(config)
    for key, _, text in named:
        if key != _TEACHERS_KEY:
            _assign(tree, config, key, text)
    try:
        changed: TrainConfig = from_dict(TrainConfig, tree)
    except ValueError as error:  # the config's own check of the new values
        raise ConfigError(f"--set {' '.join(assignments)}: {error}") from error
    return changed


def _assign(tree: dict[str, Any], config: Any, key: str, text: str) -> None:
    """Put one parsed value into the tree, following the configuration for names and types."""
    *path, last = key.split(".")
    for name in path:
        _require_field(config, name, key)
        tree, config = (
            tree[name],
            config[name] if isinstance(config, dict) else getattr(config, name),
        )
    _require_field(config, last, key)
    if key == "decoder_phase":
        preset = DecoderPhaseConfig.preset(text, steps=config.decoder_phase.steps)
        tree[last] = to_dict(preset)
        return
    if isinstance(tree[last], dict):
        names = ", ".join(f"{key}.{name}" for name in tree[last])
        raise ConfigError(f"Expected --set to name one value; {key} has several: {names}.")
    tree[last] = _parse(text, typing.get_type_hints(type(config))[last], key)


def _require_field(config: Any, name: str, key: str) -> None:
    names: list[str] = []
    if isinstance(config, dict):
        names = list(config)
    elif dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        advice = f"Did you mean {close[0]}?" if close else f"Choose from {', '.join(names)}."
        raise ConfigError(f"Expected a field of the configuration; there is no {key}. {advice}")


def _parse(text: str, hint: Any, key: str) -> Any:
    if text in typing.get_args(hint):  # a choice may be called "none"
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if hint is float and type(value) is int:
        value = float(value)
    if not _fits(value, hint):
        raise ConfigError(f"Expected {key} as {_in_words(hint)}; got {text!r}.")
    return value


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
