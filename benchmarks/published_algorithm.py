"""BASELINE for the benchmarks: the published algorithm of TARFlow, written plainly by us.

The weights and the mathematics are those of :class:`tarflow_prior.TarFlow`, so both give the same
numbers; what differs is how. Training masks attention by a boolean matrix and runs all k tokens.
Sampling keeps the past as lists of one-token chunks that it concatenates for every layer and
token, and guides by two separate passes. Nothing here is part of a package.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tarflow_prior import Guidance, TarFlow
from tarflow_prior.block import Block

Past = dict[nn.Module, tuple[list[Tensor], list[Tensor]]]


def attend(attention: nn.Module, h: Tensor, visible: Tensor | None, past: Past | None) -> Tensor:
    config = attention.config
    qkv, gate = attention.qkv_and_gate(h).split(attention.widths, dim=-1)
    b, t, _ = h.shape
    q, k, v = qkv.reshape(b, t, 3 * config.num_heads, config.head_dim).transpose(1, 2).chunk(3, 1)
    if past is not None:
        keys, values = past.setdefault(attention, ([], []))
        keys.append(k)
        values.append(v)
        k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    mixed = mixed.transpose(1, 2).reshape(b, t, config.width) * gate.sigmoid()  # elementwise
    return F.linear(mixed, attention.project_out.weight, attention.project_out.bias)


def run_layers(block: Block, h: Tensor, visible: Tensor | None, past: Past | None = None) -> Tensor:
    for layer in block.layers:
        h = h + attend(layer.attention, layer.attention_norm(h), visible, past)
        hidden = F.gelu(layer.mlp_in(layer.mlp_norm(h)))
        h = h + F.linear(hidden, layer.mlp_out.weight, layer.mlp_out.bias)
    return block.head(h)


def context_of(block: Block, label: Tensor | None) -> Tensor:
    positions = block.positions[: block.config.num_tokens]
    positions = positions.flip(0) if block.flipped else positions
    if label is None:
        return positions + block.classes.mean(0)
    return positions + block.classes[label].unsqueeze(1)


def affine_of(block: Block, output: Tensor) -> tuple[Tensor, Tensor]:
    a, shift = output.float().chunk(2, dim=-1)
    bound = block.config.log_scale_bound
    return shift, a if bound is None else bound * torch.tanh(a / bound)


def forward(flow: TarFlow, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Data to noise: all k tokens in, boolean mask, output shifted by one."""
    log_det = z.new_zeros(len(z))
    k = z.shape[1]
    visible = torch.tril(torch.ones(k, k, dtype=torch.bool, device=z.device))
    for block in flow.blocks:
        tokens = z.flip(1) if block.flipped else z
        h = block.project_in(tokens) + context_of(block, label)
        output = run_layers(block, h, visible)
        output = torch.cat([torch.zeros_like(output[:, :1]), output[:, :-1]], dim=1)
        shift, a = affine_of(block, output)
        u = (tokens - shift) * torch.exp(-a)
        z = u.flip(1) if block.flipped else u
        log_det = log_det - a.sum((1, 2))
    return z, log_det


@torch.no_grad()
def inverse(flow: TarFlow, u: Tensor, label: Tensor, guidance: Guidance | None) -> Tensor:
    """Noise to data: token by token, one pass for the class and one for the null class."""
    for index in reversed(range(len(flow.blocks))):
        block = flow.blocks[index]
        is_guided = guidance is not None and (
            guidance.blocks == "all" or index == len(flow.blocks) - 1
        )
        tokens = (u.flip(1) if block.flipped else u).clone()
        contexts = [context_of(block, label)]
        if is_guided:
            contexts.append(context_of(block, None).expand_as(contexts[0]))
        pasts: list[Past] = [{} for _ in contexts]
        last = u.shape[1] - 1
        for t in range(last):
            outputs = []
            for context, past in zip(contexts, pasts, strict=True):
                h = block.project_in(tokens[:, t : t + 1]) + context[:, t : t + 1]
                outputs.append(affine_of(block, run_layers(block, h, None, past)))
            shift, a = outputs[0]
            if is_guided:
                weight = guidance.strength((t + 1) / last)
                shift = shift + weight * (shift - outputs[1][0])
                a = a + weight * (a - outputs[1][1])
            tokens[:, t + 1 : t + 2] = tokens[:, t + 1 : t + 2] * a.exp() + shift
        u = tokens.flip(1) if block.flipped else tokens
    return u
