"""What the commands share: options from a dataclass, one sentence for each error."""

import importlib.metadata
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, TypeVar

import tyro

from genmetrics import GenmetricsError
from genmetrics.errors import UsageError, require_no_empty
from mimflow_train.device.machine import torchrun_place
from mimflow_train.errors import DivergedError, MimflowError, PeerError, StorageError
from mimflow_train.storage.provenance import code_commit

__all__ = ["Answer", "answer", "leave", "parse", "run"]

Options = TypeVar("Options")
# Errors of libraries whose classes would have to be imported to be named.
_ANSWERS = {
    ("torch", "OutOfMemoryError"): ("Give --device cpu, or a card with more memory.", 1),
    ("tarflow_prior.errors", "NonFiniteError"): ("Give a lower guidance.", DivergedError.exit_code),
}


class Answer(NamedTuple):
    """What a command says of an error in a sentence, and ends with."""

    code: int
    message: str


def parse(kind: type[Options], arguments: Sequence[str] | None, program: str) -> Options:
    """Return the options of a command; unknown ones end it with exit code 2.

    ``--version`` alone says which code this is and ends it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        commit = code_commit()
        version = importlib.metadata.version("mimflow-train")
        sys.stdout.write(f"{program} {version}{f' ({commit})' if commit else ''}\n")
        sys.exit(0)
    try:
        require_no_empty(words)
    except UsageError as error:
        sys.stderr.write(f"{program}: {error}\n")
        sys.exit(error.exit_code)
    try:
        return tyro.cli(kind, args=words, prog=program)
    except BrokenPipeError:  # of whom --help was for
        sys.exit(_unread())


def run(body: Callable[[], int], program: str) -> int:
    """Return a command's exit code; a user's mistake is one sentence on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = body()
        sys.stdout.flush()  # while a reader that has gone can be told from a disk that is full
        return code
    except PeerError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted; nothing was being trained.\n")
        return 130
    except Exception as error:
        answered = answer(error)
        if answered is None:
            raise
        sys.stderr.write(f"{program}: {answered.message}\n")
        return answered.code


def answer(error: Exception) -> Answer | None:
    """Return what a user is told of an error that is theirs to put right; None of another."""
    if isinstance(error, MimflowError | GenmetricsError):
        return Answer(error.exit_code, str(error))
    # Such as a folder that cannot be written; a reader that has gone is nothing to put right.
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return Answer(StorageError.exit_code, f"Expected to read and write files; {error}.")
    advice, code = _ANSWERS.get((type(error).__module__, type(error).__name__), (None, 0))
    return Answer(code, f"{str(error).strip().splitlines()[0]} {advice}") if advice else None


def _unread() -> int:
    """Return the exit code for output that nobody reads, as for SIGPIPE; nothing more is written.

    Python would else try once more as it ends, and show a traceback.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def leave(body: Callable[[], int]) -> NoReturn:
    """Exit with the code of a command; among torchrun's workers at once if it is an error's.

    The usual way out would wait for the other workers, which may wait for this one. torchrun ends
    them when one has failed.
    """
    if torchrun_place() is None:
        sys.exit(body())
    try:
        code = body()
    except Exception:  # no user's mistake; elsewhere Python shows it
        traceback.print_exc()
        code = 1
    if 0 < code < 128:  # from there on a signal's, after which the workers have left together
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
