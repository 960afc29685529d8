"""Functions of the user's, named ``package.module:function``. Imports no torch."""

import os
import sys
from importlib import import_module
from typing import Any

from genmetrics.errors import UsageError

__all__ = ["call_factory", "is_factory"]


def is_factory(name: str) -> bool:
    """Say whether a name can be that of a function in a module.

    Example:
        >>> is_factory("my.nets:build"), is_factory("timm:vit.x"), is_factory("build")
        (True, False, False)
    """
    module, _, function = name.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def call_factory(name: str, *arguments: object, told_as: str, wanted: str) -> Any:
    """Import a function and call it; modules of the current folder are found too.

    Args:
        name: Module and function.
        *arguments: What it is called with.
        told_as: How messages call the name.
        wanted: What it is to return, for messages.

    Raises:
        UsageError: If it cannot be imported, or raises.

    Example:
        >>> call_factory("operator:neg", 3, told_as="--model", wanted="a number")
        -3
    """
    module_name, _, factory = name.partition(":")
    if not module_name or not factory:
        raise UsageError(
            f"Expected {told_as} as package.module:factory; got {name}. Name a function."
        )
    folder = os.getcwd()  # noqa: PTH109  # sys.path holds strings
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = getattr(import_module(module_name), factory)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"Expected {told_as} to name a function that can be imported; got '{error}'. "
            "Run in the folder of the module, or install it."
        ) from error
    except Exception as error:  # a user's module raises anything
        raise UsageError(
            f"Expected {module_name} to be imported; got {type(error).__name__}: {error}. "
            "Import it in Python to see where."
        ) from error
    try:
        return function(*arguments)
    except Exception as error:  # a user's function raises anything
        raise UsageError(
            f"Expected {name} to return {wanted}; it raised {type(error).__name__}: {error}. "
            "Call it in Python to see where."
        ) from error
