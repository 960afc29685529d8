"""One autoregressive block: every token is standardised given the tokens before it."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils import _pytree

from tarflow_prior.affine import Affine
from tarflow_prior.attention import Attend, Layer, causal_attention
from tarflow_prior.checks import NULL_CLASS, check_precision
from tarflow_prior.config import TarFlowConfig, check_type

_SOFTPLUS_ONE = math.log(math.e - 1)  # softplus maps it to 1
_SOFTPLUS_IS_EXP = -30.0  # below, ln softplus(x) is x to 5e-14


class FlowOutput(NamedTuple):
    """What a flow, or one block of it, makes of its input.

    Args:
        u: The transformed tokens.
        log_det: ``log |det du/dz|``, summed over the sample, in nats.
    """

    u: Float[Tensor, "b k d"]
    log_det: Float[Tensor, " b"]


# So that torch.export.save can write a flow.
_pytree._register_namedtuple(FlowOutput, serialized_type_name="tarflow_prior.FlowOutput")


def nll_per_dim(output: FlowOutput) -> Float[Tensor, " b"]:
    """Return ``mean(u^2) / 2 - log_det / (k d)``: nats per dimension, without the constant.

    This is the number that TarFlow and its descendants train on and print. The negative
    log-likelihood per dimension is this plus ``log(2 pi) / 2 = 0.9189``. A sample of pure
    standard noise scores 1/2 on average under the identity.

    Args:
        output: What the flow made of the data.

    Raises:
        TypeError: If it is the data, or anything else.

    Example:
        >>> nll_per_dim(FlowOutput(torch.ones(1, 4, 3), torch.tensor([6.0])))
        tensor([0.])
    """
    check_type(FlowOutput, "a FlowOutput", "Write nll_per_dim(flow(z)).", output=output)
    num_dims = output.u.shape[1:].numel()
    return 0.5 * reduce(output.u.square(), "b k d -> b", "mean") - output.log_det / num_dims


class ZeroLinear(nn.Linear):
    """A linear map that is zero at initialisation, so that its block is the identity."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        super().reset_parameters()  # draws that leave the seeds of other parts as they were
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


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
        is_conditional: Whether the block has a class table.
    """

    def __init__(
        self, config: TarFlowConfig, *, depth: int, flipped: bool, is_conditional: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.flipped = flipped
        self.project_in = nn.Linear(config.token_dim, config.width)
        self.positions = nn.Parameter(torch.empty(config.num_positions, config.width))
        self.classes: nn.Parameter | None = None
        if is_conditional:
            self.classes = nn.Parameter(torch.empty(config.num_classes, config.width))
        self.reset_parameters()
        self.layers = nn.ModuleList(Layer(config) for _ in range(depth))
        self.head = ZeroLinear(config.width, 2 * config.token_dim)

    def reset_parameters(self) -> None:
        """Draw positions and classes; the block's parts have a method of that name themselves."""
        nn.init.normal_(self.positions, std=0.01)
        if self.classes is not None:
            nn.init.normal_(self.classes, std=0.01)

    def forward(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> FlowOutput:
        """Standardise every token given those before it, in one parallel pass.

        Args:
            z: Tokens, in the dtype of the weights.
            label: Class of each sample; -1 or None is the null class.
        """
        u, log_scale = self.standardize(z, label)
        return FlowOutput(u, -reduce(log_scale, "b k d -> b", "sum"))

    def standardize(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k d"]]:
        """Return ``u`` of :meth:`forward` and the log-scale of each entry, 0 at the first token.

        Args:
            z: Tokens, in the dtype of the weights.
            label: Class of each sample; -1 or None is the null class.
        """
        check_precision(self.head.weight.dtype)  # FSDP may cast them for the pass
        tokens = self.in_decoding_order(z)
        context = self.positions_by_rank() + self.class_vector(label)
        affine = self.affine(
            tokens[:, :-1], context, self.layers, [causal_attention] * len(self.layers)
        )
        u = torch.cat([tokens[:, :1], affine.to_noise(tokens[:, 1:])], dim=1)
        log_scale = F.pad(affine.log_scale, (0, 0, 1, 0))
        return self.in_decoding_order(u), self.in_decoding_order(log_scale)

    def in_decoding_order(self, tokens: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """Reorder the tokens from original to decoding order; the same call undoes it."""
        return tokens.flip(1) if self.flipped else tokens

    def positions_by_rank(self) -> Float[Tensor, "1 t width"]:
        """Return the position vectors of the tokens of rank 0..k-2."""
        used = rearrange(self.positions[: self.config.num_tokens], "k width -> 1 k width")
        return self.in_decoding_order(used)[:, :-1]

    def class_vector(self, label: Int[Tensor, " b"] | None) -> Float[Tensor, "_ 1 _"]:
        """Return what is added to every token of a sample, one row where all are the same.

        Args:
            label: Class of each sample; -1 or None is the null class, the mean of all classes.
        """
        if self.classes is None:
            return self.positions.new_zeros(1, 1, 1)
        null = reduce(self.classes, "classes width -> 1 1 width", "mean")
        if label is None:
            return null
        is_null = label == NULL_CLASS
        chosen = F.embedding(label.masked_fill(is_null, 0), self.classes)
        chosen = rearrange(chosen, "b width -> b 1 width")
        return torch.where(rearrange(is_null, "b -> b 1 1"), null, chosen)

    def affine(
        self,
        tokens: Float[Tensor, "b t d"],
        context: Float[Tensor, "_ t width"],
        layers: Iterable[Callable[[Tensor, Attend], Tensor]],
        attends: Iterable[Attend],
    ) -> Affine:
        """Predict the Gaussian of the successor of each token.

        Args:
            tokens: Tokens in decoding order.
            context: Position plus class of each.
            layers: The layers of the block, or a copy of them made for decoding.
            attends: For each layer, how its tokens see those before them.
        """
        with without_autocast(tokens):
            h = self.project_in(tokens) + context
        for layer, attend in zip(layers, attends, strict=False):
            h = layer(h, attend)
        with without_autocast(h):
            raw, shift = self.head(h).chunk(2, dim=-1)
            return Affine(shift, self._log_scale(raw))

    def _log_scale(self, raw: Tensor) -> Tensor:
        bound = self.config.log_scale_bound
        if bound is not None:
            raw = bound * torch.tanh(raw / bound)
        return raw if self.config.scale == "exp" else _log_softplus(raw + _SOFTPLUS_ONE)


def _log_softplus(x: Tensor) -> Tensor:
    """Return ``ln softplus(x)``, which far below 0 is x, where float32's softplus is 0."""
    within = F.softplus(x.clamp(min=_SOFTPLUS_IS_EXP)).log()
    return torch.where(x < _SOFTPLUS_IS_EXP, x, within)


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return the context in which operations keep the dtype of their arguments."""
    kind = tensor.device.type
    # Entering torch.autocast costs as much as a small GEMM, and the meta device has none; to ask
    # torch which devices have it would break the graph of torch.compile in torch 2.11.
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
