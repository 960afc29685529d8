"""Linear maps of an activation that is computed again for the backward pass, not kept.

Autograd would keep both the input of the activation, for its own gradient, and the output, for
the gradient of the weight. An elementwise pass costs little beside the product that follows;
its output is the widest tensor of a transformer layer. Gradients of all orders, forward mode
and ``torch.func`` work.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

_gelu_backward = torch.ops.aten.gelu_backward.default


class GeluLinear(nn.Linear):
    """``linear(gelu(x))``, keeping ``x`` alone."""

    def forward(self, x: Float[Tensor, "b t inputs"]) -> Float[Tensor, "b t outputs"]:
        """Apply the exact GELU, then the map, in the dtype of ``x``."""
        return _apply(_GELU, self, x)


class GatedLinear(nn.Linear):
    """``linear(x * sigmoid(gate))``, keeping ``x`` and ``gate`` alone."""

    def forward(  # type: ignore[override]  # the gate is what it adds
        self, x: Float[Tensor, "b t inputs"], gate: Float[Tensor, "b t inputs"]
    ) -> Float[Tensor, "b t outputs"]:
        """Apply the gate, then the map, in the dtype of ``x``."""
        return _apply(_GATED, self, x, gate)


class _Activation(NamedTuple):
    """An elementwise function, with its derivative in both directions."""

    value: Callable[..., Tensor]
    pull: Callable[..., tuple[Tensor, ...]]  # gradient of the value, inputs -> of each input
    push: Callable[..., Tensor]  # tangent of each input, inputs -> tangent of the value


def _gate_slopes(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    opening = gate.sigmoid()
    return opening, x * opening * (1 - opening)


_GELU = _Activation(
    value=F.gelu,
    pull=lambda gradient, x: (_gelu_backward(gradient, x),),
    push=lambda tangent, x: _gelu_backward(tangent, x),
)
_GATED = _Activation(
    value=lambda x, gate: x * gate.sigmoid(),
    pull=lambda gradient, *inputs: tuple(gradient * slope for slope in _gate_slopes(*inputs)),
    push=lambda *all_: sum(t * s for t, s in zip(all_[:2], _gate_slopes(*all_[2:]), strict=True)),
)


def _apply(activation: _Activation, linear: nn.Linear, *inputs: Tensor) -> Tensor:
    weight, bias = linear.weight.to(inputs[0].dtype), linear.bias.to(inputs[0].dtype)
    if torch.compiler.is_compiling():  # the compiler chooses by itself what to keep
        return F.linear(activation.value(*inputs), weight, bias)
    output: Tensor = _LinearOf.apply(activation, weight, bias, *inputs)
    return output


class _LinearOf(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(activation: _Activation, weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        return F.linear(activation.value(*inputs), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.activation, weight, _, *rest = inputs
        ctx.save_for_backward(weight, *rest)
        ctx.save_for_forward(weight, *rest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        _, needs_weight, needs_bias, *needs_inputs = ctx.needs_input_grad
        of_weight = of_bias = None
        of_inputs: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if needs_weight:
            value = ctx.activation.value(*inputs)
            of_weight = gradient.flatten(0, -2).T @ value.flatten(0, -2)
        if needs_bias:
            of_bias = reduce(gradient, "... outputs -> outputs", "sum")
        if any(needs_inputs):
            of_inputs = ctx.activation.pull(gradient @ weight, *inputs)
        return None, of_weight, of_bias, *of_inputs

    @staticmethod
    def jvp(ctx: Any, _: None, of_weight: Any, of_bias: Any, *tangents: Any) -> Tensor:
        weight, *inputs = ctx.saved_tensors
        moved = [
            torch.zeros_like(x) if t is None else t for x, t in zip(inputs, tangents, strict=True)
        ]
        output = F.linear(ctx.activation.push(*moved, *inputs), weight)
        if of_weight is not None:
            output = output + F.linear(ctx.activation.value(*inputs), of_weight)
        return output if of_bias is None else output + of_bias
