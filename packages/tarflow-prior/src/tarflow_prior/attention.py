"""The causal transformer layer, and the key/value cache that decodes it part by part."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tarflow_prior.config import TarFlowConfig
from tarflow_prior.recompute import GatedLinear, GeluLinear

Attend = Callable[[Tensor], Tensor]
"""Maps queries, keys and values of the present tokens, stacked ``(3, b, heads, t, x)``, to
attended values ``(b, heads, t, x)``."""

_SLOT_MULTIPLE = 8  # fused kernels want the rows of a mask aligned


def causal_attention(qkv: Float[Tensor, "3 b heads t x"]) -> Float[Tensor, "b heads t x"]:
    """Attend from each token to itself and the tokens before it, all tokens at once."""
    queries, keys, values = qkv
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


def sharpened(
    attends: Iterable[Attend], sharpness: Float[Tensor, "rows 1 1 1"]
) -> Iterator[Attend]:
    """Yield attention whose logits are multiplied, row by row.

    Args:
        attends: The attention of each layer.
        sharpness: The factor of each row.
    """
    for attend in attends:
        yield partial(_attend_sharply, attend, sharpness)


def _attend_sharply(attend: Attend, sharpness: Tensor, qkv: Tensor) -> Tensor:
    queries = (qkv[0] * sharpness).to(qkv.dtype)
    return attend(torch.cat([queries[None], qkv[1:]]))


class KeyValueCache:
    """Keys and values of the tokens decoded so far, for the layers of one block at a time.

    Allocated once for a decoding and reused by all blocks, since every block starts from
    rank 0. It belongs to the call, never to the model, so decodings may interleave.

    Args:
        config: The flow to decode; its deepest block sets the number of layers.
        num_rows: Sequences decoded together, twice the batch when guided.
        dtype: The dtype in which the layers compute keys and values.
        device: The device of the flow.
    """

    def __init__(
        self, config: TarFlowConfig, num_rows: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        num_slots = -(-(config.num_tokens - 1) // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        shape = (max(config.depths), 2, num_rows, config.num_heads, num_slots, config.head_dim)
        # Zeros, not empty: a slot not yet written has attention weight 0, and 0 * NaN is NaN.
        self.layers = torch.zeros(shape, dtype=dtype, device=device).unbind(0)
        self.slots = torch.arange(num_slots, device=device)

    def clear(self) -> None:
        """Forget all tokens, in place since a captured graph keeps to this storage.

        Needed where attention covers all slots: a masked slot has weight 0, but 0 times a NaN
        that an earlier decoding has left is NaN.
        """
        for layer in self.layers:
            layer.zero_()

    def attends(self, start: int, stop: int, *, rows: slice) -> Iterator[Attend]:
        """Yield, layer by layer, the attention of the tokens of rank start..stop-1 to their past.

        Args:
            start: Decoding rank of the first token that the queries belong to.
            stop: One more than the rank of the last.
            rows: The rows in use.
        """
        visible = None
        if stop - start > 1:  # one token sees all that is cached up to itself
            ranks = rearrange(self.slots[start:stop], "t -> t 1")
            visible = self.slots[:stop] <= ranks
        for layer in self.layers:
            yield partial(_attend_to_window, layer[:, rows, :, :stop], start, visible)

    def attends_at(self, rank: Tensor, *, num_rows: int) -> Iterator[Attend]:
        """Yield the same for the one token of a rank known to the device alone.

        Every rank has the same shapes, so one graph serves all of them.

        Args:
            rank: Decoding rank, an integer tensor of one element.
            num_rows: Rows in use, the first ones.
        """
        visible = rearrange(self.slots <= rank, "t -> 1 1 1 t")
        for layer in self.layers:
            yield partial(_attend_to_all, layer[:, :num_rows], rank, visible)


def _attend_to_window(window: Tensor, start: int, visible: Tensor | None, qkv: Tensor) -> Tensor:
    """Write the new keys and values into the end of the window, then attend to the window."""
    window[:, :, :, start:] = qkv[1:]
    return F.scaled_dot_product_attention(qkv[0], window[0], window[1], attn_mask=visible)


def _attend_to_all(cached: Tensor, rank: Tensor, visible: Tensor, qkv: Tensor) -> Tensor:
    """Write the new key and value into their slot, then attend to the visible slots of all."""
    cached.index_copy_(3, rank, qkv[1:])
    return F.scaled_dot_product_attention(qkv[0], cached[0], cached[1], attn_mask=visible)


class Attention(nn.Module):
    """Multi-head attention with a sigmoid gate on the attended values (G1 of gated attention)."""

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = [3 * config.width, config.gate_width]
        self.qkv_and_gate = nn.Linear(config.width, sum(self.widths))
        kind = GatedLinear if config.gate == "elementwise" else nn.Linear
        self.project_out = kind(config.width, config.width)

    def forward(
        self, h: Float[Tensor, "b t width"], attend: Attend = causal_attention
    ) -> Float[Tensor, "b t width"]:
        """Mix the tokens as ``attend`` sees them."""
        qkv, gate = self.qkv_and_gate(h).split(self.widths, dim=-1)
        heads = self.config.num_heads
        attended = attend(rearrange(qkv, "b t (s heads x) -> s b heads t x", s=3, heads=heads))
        if self.config.gate == "headwise":
            attended = attended * rearrange(gate.sigmoid(), "b t heads -> b heads t 1")
        merged = rearrange(attended, "b heads t x -> b t (heads x)")
        gates = [gate] if self.config.gate == "elementwise" else []
        mixed: Tensor = self.project_out(merged, *gates)
        return mixed


def is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer computes what its weights say: no part is wrapped, patched or hooked."""
    kinds = (Layer, Attention, nn.LayerNorm, nn.Linear, GatedLinear, GeluLinear)
    layer = getattr(layer, "_orig_mod", layer)  # of torch.compile
    return all(
        type(part) in kinds
        and not (part._forward_hooks or part._forward_pre_hooks)
        and "forward" not in vars(part)
        for part in layer.modules()
    )


class Layer(nn.Module):
    """Pre-norm transformer layer: gated attention, then an exact-GELU MLP.

    The GEMMs run in the dtype of their weights, or of an ambient autocast; the residual stream
    and the norms in the dtype of the norms.
    """

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.mlp_ratio * config.width
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(config.width, hidden)
        self.mlp_out = GeluLinear(hidden, config.width)

    def forward(
        self, h: Float[Tensor, "b t width"], attend: Attend = causal_attention
    ) -> Float[Tensor, "b t width"]:
        """Add what the layer computes to the residual stream ``h``."""
        dtype = self.mlp_in.weight.dtype
        h = h + self.attention(self.attention_norm(h).to(dtype), attend)
        output: Tensor = h + self.mlp_out(self.mlp_in(self.mlp_norm(h).to(dtype)))
        return output

    def for_decoding(self, dtype: torch.dtype) -> "Layer":
        """Return a copy whose GEMM weights are cast once, not at every step as by autocast.

        Args:
            dtype: What the GEMMs run in.
        """
        with torch.device("meta"):
            copy = Layer(self.config)
        weights = self.state_dict()
        for name, weight in weights.items():
            weights[name] = weight if "norm" in name else weight.to(dtype)
        copy.load_state_dict(weights, assign=True)
        return copy.requires_grad_(False)  # noqa: FBT003 - torch's own signature
