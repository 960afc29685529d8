"""One process at a time on a folder."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mimflow_train.errors import ConfigError
from mimflow_train.telemetry.console import say

__all__ = ["locked", "locked_in_turn"]

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # as of Lustre without -o flock


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run folder for the length of a block; the system lets go of it if the process dies.

    Args:
        run_dir: The run; made if it is not there.

    Raises:
        ConfigError: If another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        if not _take(file):
            raise ConfigError(
                f"Expected {run_dir} to be free; {_holder(file)} is at work in it. "
                "Wait for it, or give another folder."
            )
        _sign(file)
        yield


@contextmanager
def locked_in_turn(folder: Path) -> Iterator[None]:
    """Hold a folder for the length of a block, as soon as no other process holds it.

    Args:
        folder: What is being made; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        if not _take(file):
            say(f"Waiting for {folder}, which another command is making ({_holder(file)})")
            fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


def _take(file: TextIO) -> bool:
    """Return whether the lock was free, and is ours now, or cannot be had of this file system."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        folder = Path(file.name).parent
        say(
            f"Warning: {folder} cannot be locked ({error}); see that nothing else is at work in it."
        )
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()


def _sign(file: TextIO) -> None:
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
