"""The flow as a ``torch.distributions.Distribution``."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

import tarflow_prior
from tarflow_prior.checks import check_precision
from tarflow_prior.decoding import eagerly
from tarflow_prior.implicit import reparameterized_inverse

_Shape = Size | list[int] | tuple[int, ...]


class TarFlowDistribution(Distribution):
    """Density of token sequences given labels, with differentiable samples.

    ``batch_shape`` is the shape of the labels, ``event_shape`` is ``(k, d)``. As everywhere in
    ``torch.distributions``, samples come from torch's global generator.

    Args:
        flow: The flow; its weights are read at every call.
        label: Classes of any shape, or None for the null class.
        validate_args: As for every distribution, whose default ``torch.compile`` switches off.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own protocol
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        flow: "tarflow_prior.TarFlow",
        label: Int[Tensor, "*batch"] | None = None,
        validate_args: bool | None = None,  # noqa: FBT001 - torch's own signature
    ) -> None:
        self.flow = flow
        self.label = label
        batch_shape = Size() if label is None else label.shape
        event_shape = Size((flow.config.num_tokens, flow.config.token_dim))
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def expand(self, batch_shape: _Shape, _instance: Any = None) -> "TarFlowDistribution":
        """Return the distribution with its labels broadcast to a larger batch."""
        label = torch.tensor(-1) if self.label is None else self.label
        expanded = TarFlowDistribution(self.flow, label.expand(batch_shape), self._validate_args)
        if self.label is None:
            expanded.label = None
        return expanded

    def log_prob(self, value: Float[Tensor, "*shape k d"]) -> Float[Tensor, "*broadcast"]:
        """Return the log-density of each sequence, in nats.

        Args:
            value: Sequences, broadcast against the labels.
        """
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        z = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        return self.flow.log_prob(z, self._rows(shape)).reshape(shape)

    def sample(self, sample_shape: _Shape = Size()) -> Float[Tensor, "*shape k d"]:  # noqa: B008
        """Draw sequences without gradients.

        Args:
            sample_shape: Shape of the draws, in front of the batch.
        """
        shape = Size(sample_shape) + self.batch_shape
        u = self._noise(shape)
        return self.flow.inverse(u, self._rows(shape)).reshape(*shape, *self.event_shape)

    def rsample(self, sample_shape: _Shape = Size()) -> Float[Tensor, "*shape k d"]:  # noqa: B008
        """Draw sequences that are differentiable in the weights of the flow, once.

        Args:
            sample_shape: Shape of the draws, in front of the batch.
        """
        shape = Size(sample_shape) + self.batch_shape
        check_precision(self.flow.dtype)
        z = reparameterized_inverse(self.flow.blocks, self._noise(shape), self._rows(shape))
        return z.reshape(*shape, *self.event_shape)

    @eagerly
    def _noise(self, shape: Size) -> Tensor:
        rows = (shape.numel(), *self.event_shape)
        return torch.randn(rows, dtype=self.flow.dtype, device=self.flow.device)

    def _rows(self, shape: Size) -> Tensor | None:
        if self.label is None:
            return None
        return rearrange(self.label.expand(shape), "... -> (...)").to(self.flow.device)
