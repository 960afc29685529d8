"""How a block is inverted: plain data, checked on creation, free of torch.

Given the noise, a block is the fixed point of ``z = u exp(log_scale(z)) + shift(z)``, where token t
of the right side depends on the tokens before t alone. Hence the sweep ``z <- right side`` makes
one more token exact each time, whatever it starts from. A solver cuts the tokens into segments and
sweeps each to its fixed point, with the keys and values of earlier segments cached.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

from tarflow_prior.config import check_type


@dataclass(frozen=True, slots=True)
class Sequential:
    """Token by token, exact: segments of one token.

    Args:
        polish: Sweeps over all tokens of a block in the precision of the weights, after the block
            has been decoded under autocast. Each brings the draft nearer to the sample of
            the unrounded flow. Without autocast there is nothing to polish.
        compiled: Run the step through ``torch.compile``, once for all positions of a block. It
            pays when a :class:`~tarflow_prior.Decoder` is kept and called many times.
        cuda_graph: Capture the step in a CUDA graph and replay it for every position, so that no
            kernel waits for Python. Needs a CUDA device; goes together with ``compiled``.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.
    """

    polish: int = 0
    compiled: bool = False
    cuda_graph: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether every step has the same shapes, as a graph needs it."""
        return self.compiled or self.cuda_graph

    def __post_init__(self) -> None:
        check_type(Integral, "a whole number", "Write 2.", polish=self.polish)
        flags = {"compiled": self.compiled, "cuda_graph": self.cuda_graph}
        check_type(bool, "True or False", "Write True.", **flags)
        if self.polish < 0:
            raise ValueError(f"Expected polish of at least 0; got {self.polish}. Use 0 for none.")


@dataclass(frozen=True, slots=True)
class Jacobi:
    """All tokens of a block at once, swept until the noise is met.

    Args:
        tol: Largest difference, over the entries of a sample, between the noise that a block was
            given and the noise that its result encodes to (whose standard deviation is 1). Each
            sample stops by itself, so its result does not depend on the others.
        max_iterations: Sweeps of one block; None means as many as make it exact. With fewer, a
            warning names the difference before the last sweep; ``flow.decode`` measures what is
            left.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.
    """

    tol: float = 1e-4
    max_iterations: int | None = None

    def __post_init__(self) -> None:
        _check_sweeps(self.tol, self.max_iterations)


@dataclass(frozen=True, slots=True)
class GaussSeidel:
    """Segment after segment, each swept as by :class:`Jacobi` (GS-Jacobi, arXiv 2505.12849).

    Args:
        segments: Parts of equal length that the tokens of a block are cut into.
        tol: As for :class:`Jacobi`.
        max_iterations: Sweeps of one segment, as for :class:`Jacobi`.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.
    """

    segments: int = 8
    tol: float = 1e-4
    max_iterations: int | None = None

    def __post_init__(self) -> None:
        check_type(Integral, "a whole number", "Write 8.", segments=self.segments)
        if self.segments < 1:
            raise ValueError(
                f"Expected segments of at least 1; got {self.segments}. Use 1 for all tokens."
            )
        _check_sweeps(self.tol, self.max_iterations)


@dataclass(frozen=True, slots=True)
class Auto:
    """Whichever of :class:`Jacobi` and :class:`Sequential` is faster, block by block.

    A block is swept for as long as a sequential pass would take, by a step and a sweep that
    are timed on the spot; if the noise is not met by then, it is decoded sequentially, and a kept
    :class:`~tarflow_prior.Decoder` does so at once from then on. Which samples come out,
    within ``tol``, may therefore depend on the machine.

    Args:
        tol: As for :class:`Jacobi`.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.
    """

    tol: float = 1e-4

    def __post_init__(self) -> None:
        _check_sweeps(self.tol, None)


Solver = Sequential | Jacobi | GaussSeidel | Auto


def cut(num_tokens: int, segments: int) -> list[tuple[int, int]]:
    """Cut the ranks 1..num_tokens-1 into ``(start, stop)`` of lengths that differ by at most 1.

    Args:
        num_tokens: Tokens of a sequence; the one of rank 0 needs no solving.
        segments: Segments wanted; there are never more than ranks.

    Example:
        >>> cut(8, 3)
        [(1, 3), (3, 5), (5, 8)]
    """
    segments = min(segments, num_tokens - 1)
    bounds = [1 + (num_tokens - 1) * part // segments for part in range(segments + 1)]
    return list(pairwise(bounds))


def _check_sweeps(tol: float, max_iterations: int | None) -> None:
    check_type(Real, "a number", "Write 1e-4.", tol=tol)
    if not 0 <= tol < math.inf:
        raise ValueError(
            f"Expected tol of at least 0 and finite; got {tol}. Use 0 for exact samples."
        )
    if max_iterations is not None:
        kind = "a whole number or None"
        check_type(Integral, kind, "Write 10.", max_iterations=max_iterations)
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(
            f"Expected max_iterations of at least 1; got {max_iterations}. "
            "Leave it None to sweep until exact."
        )
