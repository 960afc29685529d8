"""How far a run goes now and what it leaves behind: nothing of it changes what is learned."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

__all__ = ["Plan", "checkpoint_interval"]


def checkpoint_interval(scale: str) -> int:
    """Return the steps between checkpoints, and pictures, unless a user asks for others.

    Example:
        >>> [checkpoint_interval(each) for each in ("tiny", "L")]
        [250, 2500]
    """
    return 250 if scale == "tiny" else 2_500


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command asks of a run besides its configuration.

    Attributes:
        until: Step to end at: ``config.steps`` to end with the joint phase, ``config.all_steps`` to
            go on with the decoder's.
        checkpoint_every: Steps between checkpoints, and between pictures of samples.
        milestone_every: Steps between weights that are kept for good: those of the first checkpoint
            from each multiple on.
        log: Where the numbers go: ``files`` of the run folder, or ``wandb`` as well.
    """

    until: int
    checkpoint_every: int
    milestone_every: int = 50_000
    log: Literal["files", "wandb"] = "files"

    def is_milestone(self, step: int, kept: Collection[int]) -> bool:
        """Whether the weights of a checkpoint at this step are to be kept for good.

        Args:
            step: Of the checkpoint.
            kept: Steps of which weights are kept already.
        """
        multiple = step // self.milestone_every * self.milestone_every
        return multiple > 0 and not any(multiple <= each <= step for each in kept)
