"""What a flow is: plain data, checked on creation, free of torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args

Gate = Literal["elementwise", "headwise", "none"]
Scale = Literal["exp", "softplus"]
Conditioning = Literal["all", "last"]

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {  # of the fields that are not integers
    "depths": list,
    "conditioning": str,
    "gate": str,
    "scale": str,
    "max_positions": (int, NoneType),
    "log_scale_bound": (int, float, NoneType),
}
_PLAIN: dict[str, Callable[[Any], object]] = {  # of the numbers, numpy's too
    **dict.fromkeys(("num_tokens", "token_dim", "width", "head_dim", "mlp_ratio"), int),
    **dict.fromkeys(("num_classes", "max_positions"), int),
    "depths": lambda depths: tuple(map(int, depths)),
    "log_scale_bound": float,
}
_SHORT = (bool, int, float, str, bytes)  # types whose values an error shows
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
        num_classes: Rows of the class table; 0 is an unconditional flow.
        conditioning: Whether ``all`` blocks see the class, each with a table of its own, as in
            TarFlow, or the ``last`` (deep) block alone, as in STARFlow.
        gate: Sigmoid gate on the attention output: one per entry, one per head, or none.
        scale: The map from the network's output ``a`` to the conditional standard deviation:
            ``exp(a)``, or STARFlow's ``softplus(a + ln(e - 1))``. Both give 1 at ``a = 0``.
        max_positions: Rows of the position table of every block; None means ``num_tokens``. Rows
            past ``num_tokens`` are never read; the paper's 482 M parameters include them.
        log_scale_bound: Soft clip ``a <- c tanh(a / c)`` of that output (never of the shift),
            which keeps sampling finite: unbounded, ``exp(a)`` of a token enters the ``a`` of the
            next. The likelihood stays exact, for the clipped flow; a block can no longer
            express a deviation outside ``exp(-c)..exp(c)``, with softplus at c=4 one outside
            0.031..4.55. On a small trained flow c=4 changed
            the held-out NLL by at most 1e-4 nats per dimension. None switches it off.
        mlp_ratio: Hidden width of the MLPs, in units of ``width``.

    Raises:
        TypeError: If a field is of another type.
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
    conditioning: Conditioning = "all"
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
        one_of(get_args(Conditioning), conditioning=self.conditioning)
        one_of(get_args(Gate), gate=self.gate)
        one_of(get_args(Scale), scale=self.scale)
        check_type(Sequence, "a tuple", "Write (2, 2, 8), say.", depths=self.depths)
        for depth in self.depths:
            check_type(Integral, "whole numbers", "Write (2, 2, 8), say.", depths=depth)
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
        if self.max_positions is not None:
            kind = "a whole number or None"
            check_type(Integral, kind, "Write 1024.", max_positions=self.max_positions)
        if self.max_positions is not None and self.max_positions < self.num_tokens:
            raise ValueError(
                f"Expected max_positions of at least num_tokens={self.num_tokens}; "
                f"got {self.max_positions}. Raise it, or leave it None."
            )
        if self.log_scale_bound is not None:
            check_type(Real, "a number or None", "Write 4.0.", log_scale_bound=self.log_scale_bound)
        if self.log_scale_bound is not None and not 0 < self.log_scale_bound < math.inf:
            raise ValueError(
                f"Expected log_scale_bound above 0 and finite; got {self.log_scale_bound}. "
                "Set it to None for an unbounded log-scale."
            )
        keep_plain(self, **_PLAIN)

    @classmethod
    def preset(
        cls, name: str, *, num_tokens: int, token_dim: int, num_classes: int = 0, **overrides: Any
    ) -> "TarFlowConfig":
        """Return one of the sizes tiny, S, B, L, XL, XXL for the caller's tokens.

        L is the flow of the paper; XXL has the 1.4B shape of STARFlow.

        Args:
            name: The size, by its exact name.
            num_tokens: Tokens of one sequence.
            token_dim: Entries of one token.
            num_classes: Classes; 0 is an unconditional flow.
            **overrides: Fields that replace the preset's, such as ``gate="none"``.

        Raises:
            ValueError: If there is no preset of this name, or a number is out of range.

        Example:
            >>> TarFlowConfig.preset("L", num_tokens=128, token_dim=64, num_classes=1000).depths
            (2, 2, 2, 2, 2, 2, 2, 20)
        """
        one_of(tuple(_SHAPES), preset=name)
        width, depths = _SHAPES[name]
        values: dict[str, Any] = {"num_classes": num_classes, "width": width, "depths": depths}
        return cls(num_tokens=num_tokens, token_dim=token_dim, **values | overrides)

    @property
    def num_heads(self) -> int:
        """Attention heads of one layer."""
        return self.width // self.head_dim

    @property
    def gate_width(self) -> int:
        """Gates of one token in one layer."""
        return {"elementwise": self.width, "headwise": self.num_heads, "none": 0}[self.gate]

    @property
    def num_class_tables(self) -> int:
        """Blocks that see the class."""
        if not self.num_classes:
            return 0
        return len(self.depths) if self.conditioning == "all" else 1

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
        tables = self.num_positions * width
        block = tokens_in + tokens_out + tables
        classes = self.num_class_tables * self.num_classes * width
        return len(self.depths) * block + classes + sum(self.depths) * layer

    def num_flops(self) -> int:
        """Count the floating point operations of one pass over one sequence, in either direction.

        A multiply-add is two; matrix products alone count, attention as a full square, as
        ``torch.utils.flop_counter`` counts them. A training step takes three times as many;
        guidance doubles the share of the blocks that it acts on.
        """
        width, steps = self.width, self.num_tokens - 1
        linears = (4 + 2 * self.mlp_ratio) * width + self.gate_width
        layer = width * linears + 2 * steps * width
        ends = 3 * self.token_dim * width
        return 2 * steps * (sum(self.depths) * layer + len(self.depths) * ends)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self) | {"depths": list(self.depths)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TarFlowConfig":
        """Build the config from what :meth:`to_dict` returned.

        Fields that are absent take their defaults.

        Raises:
            ValueError: If a field is unknown, of another type, missing without a default, or
                out of range.

        Example:
            >>> config = TarFlowConfig.preset("tiny", num_tokens=16, token_dim=8)
            >>> TarFlowConfig.from_dict(config.to_dict()) == config
            True
        """
        known = {field.name: field for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                raise ValueError(
                    f"Expected fields of TarFlowConfig; got unknown field {name!r}"
                    + (f" (did you mean {close[0]!r}?)." if close else ".")
                    + " Remove it, or load it with the version of tarflow-prior that wrote it."
                )
            if not _is_json_type(name, value):
                raise ValueError(
                    f"Expected {name} of another type; got {value!r}. Write what to_dict returns."
                )
        missing = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
        if missing:
            raise ValueError(
                f"Expected the fields {', '.join(missing)}; got none of this name. "
                "Write what to_dict returns."
            )
        return cls(**{**values, "depths": tuple(values["depths"])})


def _is_json_type(name: str, value: object) -> bool:
    kind = _JSON_TYPES.get(name, int)
    if kind is list:
        return isinstance(value, list) and all(type(entry) is int for entry in value)
    return isinstance(value, kind) and not isinstance(value, bool)


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        check_type(Integral, "a whole number", f"Write {minimum} or more.", **{name: value})
        if value < minimum:
            raise ValueError(
                f"Expected {name} of at least {minimum}; got {value}. Use a larger {name}."
            )


def check_type(kind: Any, expected: str, advice: str, **values: object) -> None:
    """Refuse a value of another type, naming it.

    Args:
        kind: A type, or a union of types.
        expected: The kind in words.
        advice: What to do.
        values: The name of the value, and the value.

    Raises:
        TypeError: If the value is not of this kind.
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            got = f"{type(value).__name__} {value!r}" if isinstance(value, _SHORT) else ""
            raise TypeError(
                f"Expected {name} to be {expected}; got {got or type(value).__name__}. {advice}"
            )


def keep_plain(config: object, **kinds: Callable[[Any], object]) -> None:
    """Keep fields of a frozen config as types that compare, hash and are written as JSON.

    Args:
        config: The config.
        kinds: The field, and the type to keep it in; None stays None.
    """
    for name, kind in kinds.items():
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, kind(value))


def one_of(choices: tuple[str, ...], **values: str) -> None:
    """Refuse a name that is not among the choices, naming the field.

    Args:
        choices: What is allowed.
        values: The field and its value.

    Raises:
        ValueError: If the value is not allowed.
    """
    for name, value in values.items():
        if value not in choices:
            raise ValueError(
                f"Expected {name} to be one of {', '.join(choices)}; got {value!r}. "
                "Choose one of these names."
            )
