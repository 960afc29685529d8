"""Waits for a storage that is away for a moment: a network's, or one that many read."""

import errno
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["is_away", "listed", "with_retries"]

Read = TypeVar("Read")
_AWAY = {errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}


def with_retries(read: Callable[[], Read], waits: Sequence[float] = (2.0, 2.0, 2.0, 2.0)) -> Read:
    """Return what a function reads; where the storage is away, try again.

    Args:
        read: Reads.
        waits: Seconds before each further try.

    Raises:
        OSError: If it is away all the time; at once what is no sign of that, as a missing file.
    """
    for seconds in waits:
        try:
            return read()
        except OSError as error:
            if not is_away(error):
                raise
        time.sleep(seconds)
    return read()


def is_away(error: BaseException) -> bool:
    """Return whether an error says that a storage is away, of which nothing is wrong with a run."""
    # What safetensors raises has no number, and the system's words.
    numbers = [int(each) for each in re.findall(r"\(os error (\d+)\)", str(error))]
    return isinstance(error, OSError) and not _AWAY.isdisjoint([error.errno, *numbers])


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder, nothing if there is none.

    Raises:
        OSError: If it cannot be listed, also later; ``glob`` hides that from Python 3.13 on.
    """
    try:
        return with_retries(lambda: [*folder.iterdir()])
    except (FileNotFoundError, NotADirectoryError):
        return []
