"""Checks of single values, each failing in one sentence. Imports no torch, as configs do not."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, get_args

_PLAIN: Mapping[object, Callable[[Any], object]] = {  # by the annotations of configs' fields
    bool: bool,
    int: int,
    float: float,
    float | None: float,
    tuple[int, int]: lambda pair: tuple(map(int, pair)),
}
_SHORT = (bool, int, float, str, bytes)  # types whose values an error shows


def require_type(kind: Any, expected: str, advice: str, /, **values: object) -> None:
    """Raise TypeError, naming the value, unless every value is of a kind.

    Args:
        kind: A type, or a union of types.
        expected: The kind in words.
        advice: What to do.
        **values: The name of each value, and the value.
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            got = f"{type(value).__name__} {value!r}" if isinstance(value, _SHORT) else ""
            raise TypeError(
                f"Expected {name} to be {expected}; got {got or type(value).__name__}. {advice}"
            )


def require_whole(**values: int) -> None:
    """Raise TypeError, naming the value, unless every value is a whole number."""
    require_type(Integral, "a whole number", "Give one int.", **values)


def require_number(**values: float) -> None:
    """Raise TypeError, naming the value, unless every value is a real number."""
    require_type(Real, "a number", "Give one int or float.", **values)


def require_not_negative(**values: int) -> None:
    """Raise TypeError or ValueError, naming the value, unless every one is whole and at least 0."""
    require_whole(**values)
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"Expected {name} >= 0; got {value}. Choose 0 or more.")


def require_count(**values: int) -> None:
    """Raise TypeError or ValueError, naming the value, unless every one is whole and above 0."""
    require_whole(**values)
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"Expected {name} above 0; got {value}. Choose a positive number.")


def require_positive(**values: float) -> None:
    """Raise TypeError or ValueError, naming the value, unless every one is finite and above 0."""
    require_number(**values)
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(
                f"Expected {name} above 0 and finite; got {value}. Choose a positive number."
            )


def require_pair(example: str, /, **values: Sequence[int]) -> None:
    """Check pairs of whole numbers.

    Args:
        example: One that could be given.
        **values: The name of each pair, and the pair.

    Raises:
        TypeError: If one is no tuple or list, or not of whole numbers.
        ValueError: If one is not of two.
    """
    for name, pair in values.items():
        advice = f"Give two whole numbers, such as {example}."
        require_type((tuple, list), "a pair", advice, **{name: pair})
        for value in pair:
            require_type(Integral, "a pair of whole numbers", advice, **{name: value})
        if len(pair) != 2:
            raise ValueError(f"Expected {name} to be a pair; got {tuple(pair)}. {advice}")


def require_choice(literal: Any, /, **values: str) -> None:
    """Raise ValueError, naming the field, unless every value is one of a Literal's."""
    *first, last = map(repr, get_args(literal))
    for name, value in values.items():
        if value not in get_args(literal):
            raise ValueError(
                f"Expected {name} {', '.join(first)} or {last}; got {value!r}. Choose one of them."
            )


def keep_plain(config: Any, /) -> None:
    """Keep a frozen config's numbers as types that compare, hash and are written as JSON.

    Args:
        config: A dataclass whose fields are checked; numpy's numbers become plain, lists tuples.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in _PLAIN and value is not None:
            object.__setattr__(config, field.name, _PLAIN[field.type](value))


def require_grid(image_size: int, patch_size: int) -> None:
    """Raise TypeError or ValueError unless square patches tile a square image exactly."""
    require_count(image_size=image_size, patch_size=patch_size)
    if image_size % patch_size:
        raise ValueError(
            f"Expected image_size divisible by patch_size={patch_size}; got {image_size}. "
            f"Choose image_size={image_size - image_size % patch_size or patch_size}."
        )
