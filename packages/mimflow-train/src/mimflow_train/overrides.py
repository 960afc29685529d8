"""``--set key=value``: changes one field of a nested configuration; imports no torch."""

import ast
import dataclasses
import difflib
import types
import typing
from typing import Any

from mimflow_train.config import TrainConfig
from mimflow_train.errors import ConfigError

__all__ = ["override"]


def override(config: TrainConfig, assignment: str) -> TrainConfig:
    """Return the configuration with one field changed, such as ``optim.lr=2e-4``.

    Args:
        config: Where to start.
        assignment: Dotted field name, ``=``, and a Python literal or a plain word.

    Raises:
        ConfigError: If there is no such field, or the value is of another type or out of range.

    Example:
        >>> from mimflow_train.recipes import tiny
        >>> override(tiny(), "optim.lr=2e-4").optim.lr
        0.0002
    """
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ConfigError(f"Expected --set key=value; got {assignment!r}. Write optim.lr=2e-4.")
    try:
        changed: TrainConfig = _replace(config, key.split("."), text, key)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:  # the config's own check of the new value
        raise ConfigError(f"--set {assignment}: {error}") from error
    return changed


def _replace(config: Any, path: list[str], text: str, key: str) -> Any:
    name, *rest = path
    names = (
        list(config) if isinstance(config, dict) else [f.name for f in dataclasses.fields(config)]
    )
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        advice = f"Did you mean {close[0]}?" if close else f"Choose from {', '.join(names)}."
        raise ConfigError(f"Expected a field of the configuration; there is no {key}. {advice}")
    if isinstance(config, dict):
        return {**config, name: _replace(config[name], rest, text, key)}
    current = getattr(config, name)
    nested = dataclasses.is_dataclass(current) or isinstance(current, dict)
    if rest and nested:
        return dataclasses.replace(config, **{name: _replace(current, rest, text, key)})
    if rest or nested:
        raise ConfigError(f"Expected --set to name one value; {key} is not one.")
    hint = typing.get_type_hints(type(config))[name]
    return dataclasses.replace(config, **{name: _parse(text, hint, key)})


def _parse(text: str, hint: Any, key: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if hint is float and type(value) is int:
        value = float(value)
    if not _fits(value, hint):
        name = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
        raise ConfigError(f"Expected {key} of type {name}; got {text!r}.")
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        return isinstance(value, tuple)
    if hint is type(None):
        return value is None
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
