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
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # a wheel may lie in any checkout
        return _git("describe", "--always", "--dirty=+")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return found.stdout.strip()
