"""What the commands share: options from a dataclass, one sentence for each error."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from genmetrics import GenmetricsError
from mimflow_train.errors import MimflowError, StorageError

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
    except OSError as error:  # a folder that cannot be written, a file where a folder should be
        sys.stderr.write(f"{program}: Expected to read and write the run's files; {error}.\n")
        return StorageError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted; nothing was being trained.\n")
        return 130
