"""What the commands share: options from a dataclass, one sentence for each error."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from genmetrics import GenmetricsError
from mimflow_train.errors import MimflowError

__all__ = ["parse", "run"]

Options = TypeVar("Options")


def parse(kind: type[Options], arguments: Sequence[str] | None, program: str) -> Options:
    """Return the options of a command; unknown ones end it with exit code 2."""
    return tyro.cli(kind, args=arguments, prog=program)


def run(body: Callable[[], int], program: str) -> int:
    """Return a command's exit code; a user's mistake is one sentence on stderr."""
    try:
        return body()
    except (MimflowError, GenmetricsError) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return error.exit_code
