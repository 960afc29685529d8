"""The causal transformer layer, and the key/value cache that decodes it token by token."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tarflow_prior.config import TarFlowConfig

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps queries, keys and values of the present tokens ``(b, heads, t, x)`` to attended values."""


def causal_attention(
    queries: Float[Tensor, "b heads t x"],
    keys: Float[Tensor, "b heads t x"],
    values: Float[Tensor, "b heads t x"],
) -> Float[Tensor, "b heads t x"]:
    """Attend from each token to itself and the tokens before it, all tokens at once."""
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


class KeyValueCache:
    """Keys and values of the tokens decoded so far, for the layers of one block at a time.

    Allocated once for a decoding and reused by all blocks, since every block starts from
    rank 0. It belongs to the call, never to the model, so decodings may interleave. Every
    step has the same shapes.

    Args:
        config: The flow to decode; its deepest block sets the number of layers.
        num_rows: Sequences decoded together, twice the batch when guided.
        dtype: The dtype in which the layers compute keys and values.
        device: The device of the flow.
    """

    def __init__(
        self, config: TarFlowConfig, num_rows: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        num_slots = config.num_tokens - 1
        shape = (max(config.depths), 2, num_rows, config.num_heads, num_slots, config.head_dim)
        # Zeros, not empty: a slot not yet written has attention weight 0, and 0 * NaN is NaN.
        self.entries = torch.zeros(shape, dtype=dtype, device=device)
        self.slots = torch.arange(num_slots, device=device)

    def attends(self, step: int, *, depth: int, num_rows: int) -> Iterator[Attend]:
        """Yield, layer by layer, the attention of the token of rank ``step`` to its past.

        Args:
            step: Decoding rank of the one token that the queries belong to.
            depth: Layers of the block.
            num_rows: Rows in use, the first ones.
        """
        slot, visible = self.slots[step : step + 1], self.slots <= step
        visible = rearrange(visible, "t -> 1 1 1 t")
        for keys, values in self.entries[:depth, :, :num_rows]:
            yield partial(_cached_attention, keys, values, slot, visible)


def _cached_attention(
    keys: Tensor, values: Tensor, slot: Tensor, visible: Tensor, query: Tensor, *present: Tensor
) -> Tensor:
    """Write the present key and value into their slot, then attend to the visible slots."""
    for cached, new in zip((keys, values), present, strict=True):
        cached.index_copy_(2, slot, new)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)


class Attention(nn.Module):
    """Multi-head attention with a sigmoid gate on the attended values (G1 of gated attention)."""

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = [3 * config.width, config.gate_width]
        self.qkv_and_gate = nn.Linear(config.width, sum(self.widths))
        self.project_out = nn.Linear(config.width, config.width)

    def forward(
        self, h: Float[Tensor, "b t width"], attend: Attend = causal_attention
    ) -> Float[Tensor, "b t width"]:
        """Mix the tokens as ``attend`` sees them."""
        heads = self.config.num_heads
        qkv, gate = self.qkv_and_gate(h).split(self.widths, dim=-1)
        attended = attend(*rearrange(qkv, "b t (s heads x) -> s b heads t x", s=3, heads=heads))
        if self.config.gate != "none":
            gate = rearrange(gate, "b t (heads x) -> b heads t x", heads=heads)
            attended = attended * gate.sigmoid()
        mixed: Tensor = self.project_out(rearrange(attended, "b heads t x -> b t (heads x)"))
        return mixed


class Layer(nn.Module):
    """Pre-norm transformer layer: gated attention, then an exact-GELU MLP."""

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width)
        )

    def forward(
        self, h: Float[Tensor, "b t width"], attend: Attend = causal_attention
    ) -> Float[Tensor, "b t width"]:
        """Add what the layer computes to the residual stream ``h``."""
        h = h + self.attention(self.attention_norm(h), attend)
        output: Tensor = h + self.mlp(self.mlp_norm(h))
        return output
