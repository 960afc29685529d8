"""Checks of single values, each failing in one sentence. Imports no torch, as configs do not."""

from numbers import Integral
from typing import Any

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


def require_not_negative(**values: int) -> None:
    """Raise TypeError or ValueError, naming the value, unless every one is whole and at least 0."""
    require_whole(**values)
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"Expected {name} >= 0; got {value}. Choose 0 or more.")
