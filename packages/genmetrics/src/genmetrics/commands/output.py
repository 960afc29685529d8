"""Where results and progress go: stdout is the result, stderr the rest. Imports no torch."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genmetrics.errors import UsageError

__all__ = ["add_json_option", "document", "logs_on_stderr", "progress_bar", "write"]

_STARTED = time.monotonic()


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add where :func:`write` puts JSON."""
    parser.add_argument(
        "--json", metavar="FILE", help="write a JSON report; - prints it in place of the table"
    )


@contextmanager
def progress_bar(total: int, unit: str = "img") -> Iterator[Any]:
    """Yield a bar with an ETA on stderr; silent where nobody looks."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        yield bar


class _OnStderr(logging.Handler):
    """Print each message; looks stderr up each time, since it may be redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.getMessage()}\n")


@contextmanager
def logs_on_stderr() -> Iterator[None]:
    """Print what the library logs while a command runs."""
    logger, handler = logging.getLogger("genmetrics"), _OnStderr()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def document(result: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """Return a result with when, how and how long it was made, ready for JSON."""
    return result | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "timings": {"total_s": round(time.monotonic() - _STARTED, 3)},
    }


def write(document: dict[str, Any], table: str, target: str | None) -> None:
    """Print the table, or JSON in its place for ``-``; a file gets the JSON besides.

    Raises:
        UsageError: If the file cannot be written; the table is printed all the same.
    """
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        if target is not None:
            Path(target).write_text(text)
    except OSError as error:
        raise UsageError(f"Expected a writable --json file; got {error}.") from error
    finally:  # a table that took hours is not lost with the file
        sys.stdout.write(table + "\n")
        sys.stdout.flush()
