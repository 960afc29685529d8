"""Steps that fail: where gradients stop to be finite, and errors that are no user's mistake."""

import json
import math
import re
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor, nn

from genmetrics import GenmetricsError
from mimflow_train.engine.sharding import part_of
from mimflow_train.errors import MimflowError, PeerError, RetriesError

__all__ = [
    "Skipped",
    "StepError",
    "diagnosis",
    "ended",
    "is_lost_peer",
    "note_failure",
    "note_skipped",
]

_BLOCK = re.compile(r".*?\.\d+|[^.]+")  # a weight's name to its first number, or to the first dot
_TRIES = 3
_RULE = "-" * 72 + "\n"


class StepError(Exception):
    """An unexpected error within a training step; its cause is the error.

    Args:
        step: Optimiser steps done before.
        why: What the error is called and says, in a line.
    """

    def __init__(self, step: int, why: str) -> None:
        super().__init__(
            f"Step {step} failed ({why}); its traceback is in the folder errors of the run as "
            "well. The same command tries it again."
        )
        self.step, self.why = step, why

    def __reduce__(self) -> tuple[type["StepError"], tuple[int, str]]:
        return StepError, (self.step, self.why)  # Ray sends it between processes, without its cause


class Skipped(NamedTuple):
    """A step of which a gradient was not finite, and what it was for stayed as it was.

    That is everything; with fresh fakes it may be the discriminator alone.

    Attributes:
        step: Optimiser steps done before.
        terms: What this worker found: the loss's terms and the gradients' norms.
        images: Places of this worker's images in the training set.
    """

    step: int
    terms: Mapping[str, float]
    images: list[int]


def is_lost_peer(error: Exception) -> bool:
    """Return whether an error says that another worker cannot be reached; gloo has no class for it.

    Args:
        error: What a collective has raised.
    """
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def ended(errors: Mapping[int, Exception]) -> str:
    """Say which workers of Ray ended and why.

    Args:
        errors: What ended them, by rank; of a worker that has died, what Ray says of it.

    Returns:
        A line, which leaves out those that only met with the end of another; empty if it was a
        user's mistake, which the command's last sentence is about.
    """
    if any(isinstance(error, MimflowError | GenmetricsError) for error in errors.values()):
        return ""
    others = {rank: each for rank, each in errors.items() if not isinstance(each, PeerError)}
    return " ".join(
        f"Worker {rank}{_reason(error)}" for rank, error in sorted((others or errors).items())
    )


def _reason(error: Exception) -> str:
    """Return where a worker was, if that is known, and why it ended."""
    if isinstance(error, StepError):
        return f" ended: step {error.step} failed ({error.why})."
    # Ray tells of a dead worker's process in a table, and below that what became of it.
    found = str(getattr(error, "health_check_failure", error)).strip().splitlines() or [repr(error)]
    where = [line.removeprefix("\tip: ") for line in found if line.startswith("\tip: ")]
    below = [line for line in found[1:] if not line.startswith("\t")]
    if not where:
        return f" ended: {found[0]}"
    return f" on {where[0]} ended: {(below or found)[0]}"


def diagnosis(terms: Mapping[str, Tensor], weights: Iterable[tuple[str, nn.Parameter]]) -> str:
    """Say which terms and norms and which blocks' gradients are not finite.

    What is not finite spreads backwards, so it begins in the last block of those that are named, in
    the order of the forward pass.

    Args:
        terms: Scalars by name.
        weights: By name; of their gradients this worker's part is looked at, if there is one.
    """
    named = ", ".join(name for name, value in terms.items() if not value.isfinite())
    blocks: dict[str, bool] = {}
    for name, weight in weights:
        if weight.grad is not None:
            block = _BLOCK.findall(name)[0]
            finite = bool(part_of(weight.grad).isfinite().all())
            blocks[block] = blocks.get(block, True) and finite
    wrong = [block for block, finite in blocks.items() if not finite]
    last = f", the last of them {wrong[-1]}" if wrong else ""
    return f"non-finite terms: {named}; in {len(wrong)} of {len(blocks)} blocks{last}"


def note_skipped(run_dir: Path, rank: int, skipped: Skipped) -> Path:
    """Write what a step without a finite gradient was made of to ``errors/`` of the run.

    Args:
        run_dir: The run.
        rank: The worker that tells it; each knows its own images.
        skipped: The step. Terms that are not finite are words in the file.

    Returns:
        The file.
    """
    path = run_dir / "errors" / f"step_{skipped.step:08d}.rank_{rank}.json"
    path.parent.mkdir(exist_ok=True)
    terms = {
        name: value if math.isfinite(value) else str(value) for name, value in skipped.terms.items()
    }
    path.write_text(json.dumps({**skipped._asdict(), "terms": terms}, indent=2) + "\n")
    return path


def note_failure(run_dir: Path, rank: int, error: StepError) -> None:
    """Write the traceback to ``errors/`` of the run.

    Args:
        run_dir: The run.
        rank: The worker that met the error.
        error: Which step, and why.

    Raises:
        RetriesError: If the same step has now failed three times on this worker.
    """
    path = run_dir / "errors" / f"step_{error.step:08d}.rank_{rank}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write("".join(traceback.format_exception(error.__cause__)) + _RULE)
    if path.read_text(encoding="utf-8").count(_RULE) >= _TRIES:
        raise RetriesError(
            f"Expected step {error.step} to succeed; it failed {_TRIES} times, now with "
            f"{type(error.__cause__).__name__}: {error.__cause__}. The tracebacks, the first on "
            f"top, are in {path}; remove that file to try again."
        ) from error
