"""What a person sees while a run goes on: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

__all__ = ["Progress", "say"]

_LINE_EVERY_SECONDS = 30.0
_SHOWN = ("loss", "nll", "rate", "pixel", "perceptual", "gan", "discriminator")


def say(message: str) -> None:
    """Write one line to stderr, above the bar if there is one."""
    tqdm.write(message, file=sys.stderr)


class Progress:
    """Steps done, loss terms and time left, on stderr.

    Args:
        start: Steps already done.
        steps: Steps in all.
    """

    def __init__(self, start: int, steps: int) -> None:
        self._steps, self._start = steps, start
        self._began = self._spoke = time.monotonic()
        self._bar: tqdm[None] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(initial=start, total=steps, unit="step", file=sys.stderr)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show the terms of a step."""
        if self._bar is not None:
            self._bar.set_postfix(
                {name: f"{values[name]:.3g}" for name in _SHOWN if name in values}
            )
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._spoke >= _LINE_EVERY_SECONDS or step == self._steps:
            self._spoke = time.monotonic()
            terms = "  ".join(f"{name} {values[name]:.3g}" for name in _SHOWN if name in values)
            per_step = (self._spoke - self._began) / max(1, step - self._start)
            left = time.strftime("%H:%M:%S", time.gmtime(per_step * (self._steps - step)))
            say(f"step {step}/{self._steps}  {per_step:.2f} s/step  {left} left  {terms}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
