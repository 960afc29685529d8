"""What a flow is and how it is guided: plain data, checked on creation, free of torch."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

Gate = Literal["elementwise", "headwise", "none"]
Scale = Literal["exp", "softplus"]
Rule = Literal["tarflow", "starflow"]
Ramp = Literal["linear", "constant"]
GuidedBlocks = Literal["last", "all"]

_SHAPES = {  # name: (width, layers of each block, in data-to-noise order)
    "tiny": (192, (1, 1, 1, 3)),
    "S": (384, (2,) * 3 + (8,)),
    "B": (768, (2,) * 5 + (14,)),
    "L": (1024, (2,) * 7 + (20,)),
    "XL": (1280, (2,) * 7 + (20,)),
    "XXL": (2048, (2,) * 5 + (18,)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TarFlowConfig:
    """The shape of a :class:`~tarflow_prior.TarFlow`.

    Args:
        num_tokens: Tokens of one sequence, at least 2 (a token without a past passes unchanged).
        token_dim: Entries of one token.
        width: Width of the transformers, a multiple of ``head_dim``.
        depths: Layers of each block, from data to noise. The last block is the deep one; it is
            the first to be decoded.
        head_dim: Width of one attention head.
        num_classes: Rows of the class table of every block; 0 is an unconditional flow.
        gate: Sigmoid gate on the attention output: one per entry, one per head, or none.
        scale: The map from the network's output ``a`` to the conditional standard deviation:
            ``exp(a)``, or STARFlow's ``softplus(a + ln(e - 1))``. Both give 1 at ``a = 0``.
        max_positions: Rows of the position table of every block; None means ``num_tokens``. Rows
            past ``num_tokens`` are never read; the paper's 482 M parameters include them.
        log_scale_bound: Soft clip ``a <- c tanh(a / c)`` of the log-scale (never of the shift),
            which keeps sampling finite: unbounded, ``exp(a)`` of a token enters the ``a`` of the
            next. The likelihood stays exact, for the clipped flow; a block can no longer
            express a deviation outside ``exp(-c)..exp(c)``. On a small trained flow c=4 changed
            the held-out NLL by at most 1e-4 nats per dimension. None switches it off.
        mlp_ratio: Hidden width of the MLPs, in units of ``width``.

    Raises:
        ValueError: If a field is out of range.

    Example:
        >>> config = TarFlowConfig(num_tokens=16, token_dim=8, width=128, depths=(1, 2))
        >>> config.num_parameters()
        654880
    """

    num_tokens: int
    token_dim: int
    width: int
    depths: tuple[int, ...]
    head_dim: int = 64
    num_classes: int = 0
    gate: Gate = "elementwise"
    scale: Scale = "exp"
    max_positions: int | None = None
    log_scale_bound: float | None = 4.0
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _at_least(2, num_tokens=self.num_tokens)
        _at_least(
            1,
            token_dim=self.token_dim,
            width=self.width,
            head_dim=self.head_dim,
            mlp_ratio=self.mlp_ratio,
        )
        _at_least(0, num_classes=self.num_classes)
        _one_of(get_args(Gate), gate=self.gate)
        _one_of(get_args(Scale), scale=self.scale)
        if not self.depths or min(self.depths) < 1:
            raise ValueError(
                f"Expected depths of one or more blocks, 1 or more layers each; got {self.depths}. "
                "Give the layers of each block, such as (2, 2, 8)."
            )
        if self.width % self.head_dim:
            raise ValueError(
                f"Expected width divisible by head_dim={self.head_dim}; got {self.width}. "
                "Change one of the two."
            )
        if self.max_positions is not None and self.max_positions < self.num_tokens:
            raise ValueError(
                f"Expected max_positions of at least num_tokens={self.num_tokens}; "
                f"got {self.max_positions}. Raise it, or leave it None."
            )
        if self.log_scale_bound is not None and not 0 < self.log_scale_bound < math.inf:
            raise ValueError(
                f"Expected log_scale_bound above 0 and finite; got {self.log_scale_bound}. "
                "Set it to None for an unbounded log-scale."
            )

    @classmethod
    def preset(
        cls, name: str, *, num_tokens: int, token_dim: int, num_classes: int = 0
    ) -> "TarFlowConfig":
        """Return one of the sizes tiny, S, B, L, XL, XXL for the caller's tokens.

        L is the flow of the paper; XXL has the 1.4B shape of STARFlow. Vary a preset with
        :func:`dataclasses.replace`.

        Args:
            name: The size, by its exact name.
            num_tokens: Tokens of one sequence.
            token_dim: Entries of one token.
            num_classes: Classes; 0 is an unconditional flow.

        Raises:
            ValueError: If there is no preset of this name, or a number is out of range.

        Example:
            >>> TarFlowConfig.preset("L", num_tokens=128, token_dim=64, num_classes=1000).depths
            (2, 2, 2, 2, 2, 2, 2, 20)
        """
        _one_of(tuple(_SHAPES), preset=name)
        width, depths = _SHAPES[name]
        return cls(
            num_tokens=num_tokens,
            token_dim=token_dim,
            num_classes=num_classes,
            width=width,
            depths=depths,
        )

    @property
    def num_heads(self) -> int:
        """Attention heads of one layer."""
        return self.width // self.head_dim

    @property
    def gate_width(self) -> int:
        """Gates of one token in one layer."""
        return {"elementwise": self.width, "headwise": self.num_heads, "none": 0}[self.gate]

    @property
    def num_positions(self) -> int:
        """Rows of the position table of one block."""
        return self.num_tokens if self.max_positions is None else self.max_positions

    def num_parameters(self) -> int:
        """Count the parameters of the flow without building it."""
        width, hidden = self.width, self.mlp_ratio * self.width
        attention = (width + 1) * (3 * width + self.gate_width) + (width + 1) * width
        mlp = (width + 1) * hidden + (hidden + 1) * width
        layer = attention + mlp + 4 * width  # two norms, each with weight and bias
        tokens_in, tokens_out = (self.token_dim + 1) * width, (width + 1) * 2 * self.token_dim
        tables = (self.num_positions + self.num_classes) * width
        return len(self.depths) * (tokens_in + tokens_out + tables) + sum(self.depths) * layer


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

    Raises:
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

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ValueError(
                f"Expected guidance scale of at least 0 and finite; got {self.scale}. "
                "Use 0 to sample without guidance."
            )
        _one_of(get_args(Rule), rule=self.rule)
        _one_of(get_args(Ramp), ramp=self.ramp)
        _one_of(get_args(GuidedBlocks), blocks=self.blocks)
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"Expected guidance interval (low, high) with 0 <= low <= high <= 1; "
                f"got {self.interval}. Use (0.0, 1.0) to guide every token."
            )

    def strength(self, fraction: float) -> float:
        """Weight of the guidance at a decoding rank.

        Args:
            fraction: ``t / (k - 1)`` of the token to be decoded, in 0..1.
        """
        low, high = self.interval
        if not low <= fraction <= high:
            return 0.0
        return self.scale * fraction if self.ramp == "linear" else self.scale


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(
                f"Expected {name} of at least {minimum}; got {value}. Use a larger {name}."
            )


def _one_of(choices: tuple[str, ...], **values: str) -> None:
    for name, value in values.items():
        if value not in choices:
            raise ValueError(
                f"Expected {name} to be one of {', '.join(choices)}; got {value!r}. "
                "Choose one of these names."
            )
