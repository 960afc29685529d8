"""Which code made a file."""

import functools
import subprocess
from pathlib import Path

__all__ = ["code_commit"]


@functools.cache
def code_commit() -> str | None:
    """Return the commit that this code is at, with a plus if files have changed since.

    None if it was installed from a wheel, or there is no git.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
