"""One process at a time on a run folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimflow_train.errors import ConfigError

__all__ = ["locked"]


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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"Expected {run_dir} to be free; {file.read().strip()} is at work in it. "
                "Wait for it, or give another --out."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
