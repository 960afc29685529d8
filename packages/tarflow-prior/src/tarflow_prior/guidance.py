"""How sampling is guided: plain data, checked on creation, free of torch."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Literal, get_args

from tarflow_prior.config import check_type, keep_plain, one_of

Rule = Literal["tarflow", "starflow"]
Ramp = Literal["linear", "constant"]
GuidedBlocks = Literal["last", "all"]


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of the conditional Gaussians while a sequence is decoded.

    Args:
        scale: Weight w of the guidance; 0 is unguided, bit for bit (diffusion's w minus one).
        rule: ``tarflow`` extrapolates shift and log-scale away from the null class;
            ``starflow`` takes the Gaussian ``p_c^(1+w) / p_u^w``, its variance ratio clipped.
        ramp: ``linear`` weights the token of rank t = 0..k-1 by ``scale * t / (k - 1)``;
            ``constant`` by ``scale``.
        interval: Closed range of ``t / (k - 1)`` that is guided, t counted in decoding order.
        blocks: ``last`` guides the deep block alone (last in ``depths``, first to be decoded);
            ``all`` guides every block.
        attention_temperature: Divides the attention logits of the null class, at least 1e-6. With
            another than 1 samples of no class are guided too, and blocks without a class table:
            above 1 away from what the flow would predict if it attended less sharply (TarFlow's
            guidance without classes).

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.

    Example:
        >>> guidance = Guidance(2.0)
        >>> guidance.strength(0.1), guidance.strength(0.5), guidance.strength(1.0)
        (0.0, 1.0, 2.0)
    """

    scale: float
    _: KW_ONLY
    rule: Rule = "tarflow"
    ramp: Ramp = "linear"
    interval: tuple[float, float] = (0.25, 1.0)
    blocks: GuidedBlocks = "last"
    attention_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_type(Real, "a number", "Write Guidance(2.0).", scale=self.scale)
        if not 0 <= self.scale < math.inf:
            raise ValueError(
                f"Expected guidance scale of at least 0 and finite; got {self.scale}. "
                "Use 0 to sample without guidance."
            )
        one_of(get_args(Rule), rule=self.rule)
        one_of(get_args(Ramp), ramp=self.ramp)
        one_of(get_args(GuidedBlocks), blocks=self.blocks)
        check_type(Sequence, "a pair of numbers", "Write (0.25, 1.0).", interval=self.interval)
        if len(self.interval) != 2:
            raise ValueError(
                f"Expected guidance interval (low, high); got {self.interval}. Give two numbers."
            )
        low, high = self.interval
        for bound in (low, high):
            check_type(Real, "two numbers", "Write (0.25, 1.0).", interval=bound)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"Expected guidance interval (low, high) with 0 <= low <= high <= 1; "
                f"got {self.interval}. Use (0.0, 1.0) to guide every token."
            )
        kind, temperature = "a number", self.attention_temperature
        check_type(Real, kind, "Write 1.5, say.", attention_temperature=temperature)
        if not 1e-6 <= temperature < math.inf:
            raise ValueError(
                f"Expected attention_temperature of at least 1e-6 and finite; got {temperature}. "
                "Use 1 for the null class as it is."
            )
        keep_plain(self, scale=float, attention_temperature=float)
        keep_plain(self, interval=lambda bounds: tuple(map(float, bounds)))

    @property
    def needs_classes(self) -> bool:
        """Whether there is nothing to lean away from where no class is given."""
        return self.attention_temperature == 1

    def strengths(self, num_tokens: int) -> list[float]:
        """Weights of the tokens of rank 1..k-1, in decoding order.

        Args:
            num_tokens: Tokens k of a sequence.

        Example:
            >>> Guidance(2.0).strengths(5)
            [0.5, 1.0, 1.5, 2.0]
        """
        last = num_tokens - 1
        return [self.strength(rank / last) for rank in range(1, last + 1)]

    def strength(self, fraction: float) -> float:
        """Weight of the guidance at a decoding rank.

        Args:
            fraction: ``t / (k - 1)`` of the token to be decoded, in 0..1.
        """
        low, high = self.interval
        if not low <= fraction <= high:
            return 0.0
        return self.scale * fraction if self.ramp == "linear" else self.scale
