"""The transformer layer as a CPU decodes it: weights packed once, in few operators.

A decoding step multiplies a few rows by every weight of the block, so it waits for memory, and for
Python. oneDNN reads weights packed beforehand 1.5 to 2.7 times as fast as torch's plain product
(benchmarks/flow_sampling.md). The layer is written in torch's own views, the only one that is
not in einops: rearranging took a sixth of a step at batch 1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tarflow_prior.attention import Attend, Layer


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether this build of torch has packed products for the device and dtype.

    Those of torch 2.11 depend on where in a batch a row stands, so they are not used.
    """
    mkldnn = torch.backends.mkldnn
    if device.type != "cpu" or not (mkldnn.is_available() and mkldnn.enabled):
        return False
    if torch.__version__ < "2.12":
        return False
    has_bfloat16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16)


class PackedLinear(NamedTuple):
    """A linear map without gradients; see :func:`pack`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Float[Tensor, "b t inputs"]) -> Float[Tensor, "b t outputs"]:
        """Multiply."""
        # What torch.compile takes for nn.Linear; looked up here, since some builds lack it.
        linear = torch.ops.mkldnn._linear_pointwise.default
        product: Tensor = linear(x, self.weight, self.bias, "none", [], "")
        return product


def pack(linear: nn.Linear, dtype: torch.dtype, num_rows: int) -> PackedLinear:
    """Lay the weight of a linear map out for oneDNN.

    Args:
        linear: The map, with weight and bias.
        dtype: What the product runs in.
        num_rows: Rows of the products to come, for which the layout is chosen; others work.
    """
    weight, bias = (parameter.detach().to(dtype) for parameter in (linear.weight, linear.bias))
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), num_rows)
    return PackedLinear(packed, bias)


class PackedLayer:
    """What :class:`~tarflow_prior.attention.Layer` computes, without gradients.

    Args:
        layer: The layer.
        dtype: What its GEMMs run in.
        num_rows: As for :func:`pack`.
    """

    def __init__(self, layer: Layer, dtype: torch.dtype, num_rows: int) -> None:
        self.config, self.dtype = layer.config, dtype
        linears: list[nn.Linear] = [layer.attention.qkv_and_gate, layer.attention.project_out]
        linears += [layer.mlp_in, layer.mlp_out]
        self.qkv_and_gate, self.project_out, self.mlp_in, self.mlp_out = (
            pack(linear, dtype, num_rows) for linear in linears
        )
        norms = layer.attention_norm, layer.mlp_norm
        self.attention_norm, self.mlp_norm = (
            (norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
            for norm in norms
        )

    def __call__(self, h: Float[Tensor, "b t width"], attend: Attend) -> Float[Tensor, "b t width"]:
        """Add what the layer computes to the residual stream ``h``."""
        b, t, width = h.shape
        heads, head_dim = self.config.num_heads, self.config.head_dim
        x = torch.layer_norm(h, *self.attention_norm).to(self.dtype)
        qkv_and_gate = self.qkv_and_gate(x)
        qkv, gate = qkv_and_gate[..., : 3 * width], qkv_and_gate[..., 3 * width :].sigmoid()
        attended = attend(qkv.view(b, t, 3, heads, head_dim).permute(2, 0, 3, 1, 4)).transpose(1, 2)
        if self.config.gate == "headwise":
            attended = attended * gate.view(b, t, heads, 1)
        x = attended.reshape(b, t, width)
        h = h + self.project_out(x * gate if self.config.gate == "elementwise" else x)
        x = torch.layer_norm(h, *self.mlp_norm).to(self.dtype)
        return h + self.mlp_out(F.gelu(self.mlp_in(x)))
