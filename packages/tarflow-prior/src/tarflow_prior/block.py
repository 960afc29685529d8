"""One autoregressive block: every token is standardised given the tokens before it."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow_prior.attention import Attend, KeyValueCache, Layer, causal_attention
from tarflow_prior.config import Guidance, TarFlowConfig
from tarflow_prior.guidance import Affine, guide

NULL_CLASS = -1
_SOFTPLUS_ONE = math.log(math.e - 1)  # softplus maps it to 1


class FlowOutput(NamedTuple):
    """What a flow, or one block of it, makes of its input.

    Args:
        u: The transformed tokens.
        log_det: ``log |det du/dz|``, summed over the sample, in nats.
    """

    u: Float[Tensor, "b k d"]
    log_det: Float[Tensor, " b"]


class Block(nn.Module):
    """Causal transformer that maps tokens ``z`` to ``u_t = (z_t - shift_t) exp(-log_scale_t)``.

    Shift and log-scale are functions of the tokens before t in decoding order; the first token
    passes unchanged. Arguments and results are in the original token order, also where the block
    decodes from the last token to the first. ``layers[i]`` are the transformer layers; what
    passes between them are the tokens of rank 0..k-2, in decoding order (the last token has
    no successor to predict).

    Args:
        config: The flow that the block is part of.
        depth: Number of transformer layers.
        flipped: Whether the last token is decoded first.
    """

    def __init__(self, config: TarFlowConfig, *, depth: int, flipped: bool) -> None:
        super().__init__()
        self.config = config
        self.flipped = flipped
        self.project_in = nn.Linear(config.token_dim, config.width)
        self.positions = nn.Parameter(torch.empty(config.num_positions, config.width))
        nn.init.normal_(self.positions, std=0.01)
        if config.num_classes:
            self.classes = nn.Parameter(torch.empty(config.num_classes, config.width))
            nn.init.normal_(self.classes, std=0.01)
        self.layers = nn.ModuleList(Layer(config) for _ in range(depth))
        self.head = nn.Linear(config.width, 2 * config.token_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> FlowOutput:
        """Standardise every token given those before it, in one parallel pass.

        Args:
            z: Tokens, in the dtype of the weights.
            label: Class of each sample; -1 or None is the null class.
        """
        tokens = self._in_decoding_order(z)
        shift, log_scale = self._affine(
            tokens[:, :-1], self._context(label), [causal_attention] * len(self.layers)
        )
        rest = (tokens[:, 1:] - shift) * torch.exp(-log_scale)
        u = self._in_decoding_order(torch.cat([tokens[:, :1], rest], dim=1))
        return FlowOutput(u, -reduce(log_scale, "b t d -> b", "sum"))

    def inverse(
        self,
        u: Float[Tensor, "b k d"],
        label: Int[Tensor, " b"] | None,
        cache: KeyValueCache,
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Undo :meth:`forward` token by token. Call it under ``torch.no_grad()``.

        Args:
            u: Output of :meth:`forward`, or noise.
            label: Class of each sample; -1 or None is the null class.
            cache: Memory for a row of each sample, two when guided; it is overwritten.
            guidance: Guidance of this block towards ``label``.
        """
        noise = self._in_decoding_order(u)
        tokens = torch.empty_like(noise)
        tokens[:, 0] = noise[:, 0]
        context, branches = self._context(label), 1
        if guidance is not None:
            null = repeat(self._context(None), "1 t width -> b t width", b=len(u))
            context, branches = torch.cat([context, null]), 2
        last = noise.shape[1] - 1
        for step in range(last):
            present, following = slice(step, step + 1), slice(step + 1, step + 2)
            affine = self._affine(
                repeat(tokens[:, present], "b 1 d -> (branch b) 1 d", branch=branches),
                context[:, present],
                cache.attends(step, depth=len(self.layers), num_rows=branches * len(u)),
            )
            if guidance is not None:
                affine = guide(guidance, *_branches(affine), fraction=(step + 1) / last)
            tokens[:, following] = noise[:, following] * affine.log_scale.exp() + affine.shift
        return self._in_decoding_order(tokens)

    def _in_decoding_order(self, tokens: Tensor) -> Tensor:
        """Reorder axis 1 from original to decoding order; the same call undoes it."""
        return tokens.flip(1) if self.flipped else tokens

    def _context(self, label: Tensor | None) -> Tensor:
        """Sum position and class of the tokens of rank 0..k-2; one row without labels."""
        used = rearrange(self.positions[: self.config.num_tokens], "k width -> 1 k width")
        positions = self._in_decoding_order(used)[:, :-1]
        if not self.config.num_classes:
            return positions
        null = reduce(self.classes, "classes width -> 1 1 width", "mean")
        if label is None:
            return positions + null
        is_null = label == NULL_CLASS
        chosen = F.embedding(label.masked_fill(is_null, 0), self.classes)
        chosen = rearrange(chosen, "b width -> b 1 width")
        return positions + torch.where(rearrange(is_null, "b -> b 1 1"), null, chosen)

    def _affine(self, tokens: Tensor, context: Tensor, attends: Iterable[Attend]) -> Affine:
        """Predict the Gaussian of the successor of each token."""
        with _without_autocast(tokens):
            h = self.project_in(tokens) + context
        for layer, attend in zip(self.layers, attends, strict=True):
            h = layer(h, attend)
        with _without_autocast(h):
            raw, shift = self.head(h).chunk(2, dim=-1)
            return Affine(shift, self._log_scale(raw))

    def _log_scale(self, raw: Tensor) -> Tensor:
        bound = self.config.log_scale_bound
        if bound is not None:
            raw = bound * torch.tanh(raw / bound)
        return raw if self.config.scale == "exp" else F.softplus(raw + _SOFTPLUS_ONE).log()


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return the context in which operations keep the dtype of their arguments."""
    kind = tensor.device.type
    # Entering torch.autocast costs as much as a small GEMM, and the meta device has none.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _branches(affine: Affine) -> tuple[Affine, Affine]:
    """Split the rows of a guided step into the class branch and the null branch."""
    shift, log_scale = (rearrange(x, "(branch b) t d -> branch b t d", branch=2) for x in affine)
    return Affine(shift[0], log_scale[0]), Affine(shift[1], log_scale[1])
