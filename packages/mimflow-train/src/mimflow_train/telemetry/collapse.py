"""Whether the latents of a run have ceased to carry anything."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = ["CollapseWarning"]

_LOW_RATE = 0.02  # nats a latent dimension above the entropy of the noise
_STEPS = 200
_LEAST_GAIN = 0.01


class _Report(NamedTuple):
    step: int
    pixel: float


class CollapseWarning:
    """Says once that the posterior has collapsed.

    The sign is a rate (NLL less its floor) below 0.02 nats a dimension in every report of 200
    steps, the first and the last included, over which the pixel loss falls by less than 1 % from
    the mean of the earlier half to that of the later one. A run that has only just begun may have
    a low rate too, but its pixel loss falls.

    Args:
        warn: Receives the sentence.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._low: deque[_Report] = deque()
        self._said = False

    def look(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a report; one without ``rate``, as of the decoder phase, tells nothing."""
        if self._said or not {"rate", "pixel"} <= values.keys():
            return
        if not values["rate"] < _LOW_RATE:  # NaN is not low
            self._low.clear()
            return
        self._low.append(_Report(step, values["pixel"]))
        while len(self._low) > 1 and step - self._low[1].step >= _STEPS:
            self._low.popleft()
        if step - self._low[0].step >= _STEPS and self._gain() < _LEAST_GAIN:
            self._said = True
            self._warn(
                f"Warning: for {_STEPS} steps the rate has been below {_LOW_RATE} nats a dimension "
                f"(now {values['rate']:.3g}) and the pixel loss has not improved: the latents "
                "carry nothing. Lower loss.nll or raise loss.pixel, and start a new --out."
            )

    def _gain(self) -> float:
        """Return by which share the pixel loss of the later half is below the earlier one's."""
        middle = self._low[-1].step - _STEPS / 2
        early = [each.pixel for each in self._low if each.step < middle]
        late = [each.pixel for each in self._low if each.step >= middle]
        return 1 - (sum(late) / len(late)) / (sum(early) / len(early))
