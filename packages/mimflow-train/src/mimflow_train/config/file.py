"""A run's configuration as a file, read back strictly; imports no torch."""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mimflow_train.config import TrainConfig
from mimflow_train.errors import ConfigError
from mimflow_train.storage.files import written_whole

__all__ = ["from_dict", "read_config", "read_metadata", "read_values", "to_dict", "write_config"]


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain dictionaries, lists and numbers, ready for JSON."""
    plain: dict[str, Any] = dataclasses.asdict(config)
    return plain


def from_dict(kind: Any, value: Any) -> Any:
    """Rebuild a config of type ``kind`` from ``to_dict``'s result.

    Raises:
        ConfigError: If a field is unknown or missing; the message names it.
    """
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _dataclass_from_dict(typing.cast("type[Any]", kind), value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(value)
    if origin is dict:
        return {key: from_dict(arguments[1], item) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType) and value is not None:
        return from_dict(next(a for a in arguments if a is not type(None)), value)
    return value


def _dataclass_from_dict(kind: type[Any], value: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ConfigError(
            f"Expected only fields of {kind.__name__}; got {', '.join(unknown)}. "
            "The file was written by another version of mimflow-train."
        )
    try:
        return kind(**{name: from_dict(hints[name], item) for name, item in value.items()})
    except TypeError as error:  # a missing field, or a word where a number is compared
        wanted = "every field" if "missing" in str(error) else "numbers and words each in its place"
        raise ConfigError(
            f"Expected {wanted} of {kind.__name__}; {str(error).rstrip('.')}."
        ) from error


def read_config(run: str | Path) -> TrainConfig:
    """Return the configuration that a run was made with.

    Args:
        run: The run's folder, or a file of its weights, which carries the configuration along.

    Raises:
        ConfigError: If there is no run, or it was made by another version.
    """
    run = Path(run)
    path = run if run.suffix == ".safetensors" else run / "config.json"
    if not path.is_file() and (run / "run.json").is_file():
        raise ConfigError(
            f"Expected a run, or a .safetensors file; {run} holds networks for other programs. "
            "Give the run that they are from, or a file of `mimflow-inspect RUN --export FILE`."
        )
    if not path.is_file():
        raise ConfigError(
            f"Expected a run folder with a config.json, or a .safetensors file; there is no {path}."
            " Train a run with `mimflow-train --out RUN`."
        )
    try:
        text = read_metadata(path)["config"] if path == run else path.read_text()
        config: TrainConfig = from_dict(TrainConfig, json.loads(text))
    except KeyError as error:
        raise ConfigError(
            f"Expected a file of `mimflow-inspect --export` or a milestone; {path} does not carry "
            "the configuration of a run."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"Expected the configuration of a run in {path}; {error}. Give another run folder."
        ) from error
    return config


def read_values(path: Path) -> dict[str, Any]:
    """Return what a file says of a configuration, which need not be all of it.

    Args:
        path: A .toml or .json file; or a run's folder, or a file of its weights, for all of it.

    Raises:
        ConfigError: If there is no such file, or it is no TOML or JSON.
    """
    if path.is_dir() or path.suffix == ".safetensors":
        return to_dict(read_config(path))
    loads = {".toml": tomllib.loads, ".json": json.loads}.get(path.suffix)
    if loads is None or not path.is_file():
        raise ConfigError(
            "Expected --config as a .toml or .json file, or a run's folder; "
            f"{f'got {path}' if path.exists() else f'there is no {path}'}. Check the path."
        )
    try:
        values = loads(path.read_text())
    except ValueError as error:  # that of either, and of text that is none
        raise ConfigError(f"Expected {path.suffix[1:].upper()} in {path}; {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"Expected names and values in {path}; got {str(values)[:40]}.")
    return values


def read_metadata(path: Path) -> dict[str, str]:
    """Return the words in the header of a .safetensors file.

    Raises:
        ConfigError: If it is no such file, or torn.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"Expected a whole .safetensors file; {path} is not: {error}.") from error


def write_config(config: TrainConfig, run_dir: Path) -> None:
    """Write a run's configuration where ``read_config`` finds it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with written_whole(run_dir / "config.json") as draft:
        draft.write_text(json.dumps(to_dict(config), indent=2) + "\n")
