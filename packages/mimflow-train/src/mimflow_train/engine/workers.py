"""How many workers share a batch: a fixed number, or as many of a range as there are devices."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from mimflow_train.errors import ConfigError

__all__ = ["Workers", "handed_on", "usable_workers"]


class Workers(NamedTuple):
    """A number of workers, or a range of which a cluster gives what it has.

    Attributes:
        least: Fewest to train with.
        most: Most to train with; the same as ``least`` if the number is fixed.
    """

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "Workers":
        """Return the workers that ``N`` or ``MIN-MAX`` asks for.

        Raises:
            ConfigError: If it is neither.

        Example:
            >>> Workers.parse("4-8")
            Workers(least=4, most=8)
        """
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
        if numbers is None:
            raise ConfigError(f"Expected --workers N or MIN-MAX; got {text}. Give 2, say, or 4-8.")
        least, most = int(numbers[1]), int(numbers[2] or numbers[1])
        if least < 1:
            raise ConfigError(f"Expected --workers >= 1; got {text}.")
        if most < least:
            raise ConfigError(f"Expected --workers MIN-MAX with MIN <= MAX; got {text}.")
        return cls(least, most)

    @property
    def is_range(self) -> bool:
        """Whether the number may change on the way."""
        return self.least < self.most

    def __str__(self) -> str:
        return f"{self.least}-{self.most}" if self.is_range else str(self.most)


def usable_workers(started: int, global_batch: int, micro_batch: int) -> int:
    """Return the most workers, of those that started, that share a batch evenly.

    Args:
        started: Workers there are.
        global_batch: Images of a step.
        micro_batch: Images per forward pass; 0 for all of a worker's.

    Returns:
        0 if no number of workers does.

    Example:
        >>> usable_workers(7, 256, 0), usable_workers(7, 96, 16), usable_workers(1, 12, 5)
        (4, 6, 0)
    """
    unit = micro_batch or 1
    fits = (n for n in range(started, 0, -1) if global_batch % (n * unit) == 0)
    return next(fits, 0)


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return where weights are and where numbers go, for nodes started without it; no secrets.

    Example:
        >>> handed_on({"MIMFLOW_WEIGHTS": "/w", "WANDB_MODE": "offline", "WANDB_API_KEY": "1"})
        {'MIMFLOW_WEIGHTS': '/w', 'WANDB_MODE': 'offline'}
    """
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("MIMFLOW_", "HF_", "WANDB_"))
        and not any(secret in name for secret in ("TOKEN", "API_KEY"))
    }
