"""The flow: blocks of alternating token order, from data to noise and back.

Precision, for the whole package: under an ambient ``torch.autocast`` the GEMMs of attention, gate
and MLP run in its dtype, and the keys and values are cached in it. Tokens, residual stream,
norms, input projection, output head, soft clip, exponential, affine map, guidance and
log-determinant keep the dtype of the weights, float32 or float64; scale and log-determinant
are made of the same unrounded tensor.
"""

import math
from collections.abc import Iterator
from typing import cast

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow_prior.attention import KeyValueCache
from tarflow_prior.block import NULL_CLASS, Block, FlowOutput
from tarflow_prior.config import Guidance, TarFlowConfig

_GAUSSIAN_CONSTANT = 0.5 * math.log(2 * math.pi)  # nats per dimension


class TarFlow(nn.Module):
    """Transformer autoregressive flow over sequences of continuous tokens.

    ``forward`` maps data to noise in one parallel pass, ``inverse`` noise to data token by token.
    ``blocks[i]`` is the i-th block in forward order; odd blocks decode from the last token to
    the first. At initialisation the flow is exactly the identity. A label is a class number;
    -1, or None for the whole batch, is the null class, the mean of all classes.

    Args:
        config: Shape of the flow.

    Example:
        >>> config = TarFlowConfig(num_tokens=4, token_dim=3, width=64, depths=(1, 1))
        >>> flow, z = TarFlow(config), torch.randn(2, 4, 3)
        >>> u, log_det = flow(z)
        >>> torch.equal(u, z), log_det.tolist(), torch.equal(flow.inverse(u), z)
        (True, [0.0, 0.0], True)
    """

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            Block(config, depth=depth, flipped=index % 2 == 1)
            for index, depth in enumerate(config.depths)
        )

    def forward(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> FlowOutput:
        """Map data to noise.

        Args:
            z: Tokens; they are cast to the dtype of the weights.
            label: Class of each sample in ``0..num_classes-1``; -1 or None is the null class.

        Returns:
            Noise ``u`` and ``log |det du/dz|`` in nats per sample.

        Raises:
            ValueError: If ``z`` has another shape than the config, a label is out of range
                (on an accelerator a device assertion says so instead, since reading the labels
                would stall the queue), or the weights are neither float32 nor float64.
        """
        outputs = list(self.iter_states(z, label))
        log_dets = torch.stack([output.log_det for output in outputs])
        return FlowOutput(outputs[-1].u, reduce(log_dets, "block b -> b", "sum"))

    def iter_states(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> Iterator[FlowOutput]:
        """Yield the tokens after each block, with the log-determinant of that block alone.

        Args:
            z: Tokens, as for :meth:`forward`.
            label: Class of each sample, as for :meth:`forward`.
        """
        state = self._tokens(z)
        label = self._label(label)
        for block in self.blocks:
            output = block(state, label)
            yield output
            state = output.u

    @torch.no_grad()
    def inverse(
        self,
        u: Float[Tensor, "b k d"],
        label: Int[Tensor, " b"] | None = None,
        *,
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Map noise to data, without gradients.

        Args:
            u: Noise; it is cast to the dtype of the weights.
            label: Class of each sample in ``0..num_classes-1``; -1 or None is the null class.
            guidance: Classifier-free guidance towards ``label``. It has nothing to act on, and
                costs nothing, where ``label`` is None, its scale is 0, or its interval is empty.

        Raises:
            ValueError: As :meth:`forward`; labels are checked on every device.
        """
        state = self._tokens(u)
        label = self._label(label)
        if label is not None:
            self._check_range(label)
        if label is None or guidance is None or not self._acts(guidance):
            guidance = None
        cache = KeyValueCache(
            self.config,
            num_rows=len(u) if guidance is None else 2 * len(u),
            dtype=self._gemm_dtype(),
            device=self.device,
        )
        for rank, block in enumerate(reversed(cast(list[Block], list(self.blocks)))):
            is_guided = rank == 0 or (guidance is not None and guidance.blocks == "all")
            state = block.inverse(state, label, cache, guidance if is_guided else None)
        return state

    def log_prob(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Return ``log p(z | label)`` in nats per sample, the Gaussian constant included.

        Args:
            z: Tokens, as for :meth:`forward`.
            label: Class of each sample, as for :meth:`forward`.
        """
        num_dims = self.config.num_tokens * self.config.token_dim
        return -num_dims * (nll_per_dim(self(z, label)) + _GAUSSIAN_CONSTANT)

    def bits_per_dim(
        self, z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Return ``-log2 p(z | label)`` per dimension of ``z``, the Gaussian constant included.

        Args:
            z: Tokens, as for :meth:`forward`.
            label: Class of each sample, as for :meth:`forward`.
        """
        return (nll_per_dim(self(z, label)) + _GAUSSIAN_CONSTANT) / math.log(2)

    def sample(
        self,
        label_or_count: Int[Tensor, " b"] | int,
        *,
        guidance: Guidance | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Draw sequences from the flow.

        Args:
            label_or_count: The class of each sample, or how many samples of the null class.
            guidance: Classifier-free guidance, as for :meth:`inverse`.
            temperature: Standard deviation of the base noise, at least 0.
            generator: Source of the noise, on any device; the noise is drawn where it lives.

        Raises:
            ValueError: If the temperature is negative, or a label is out of range.

        Example:
            >>> config = TarFlowConfig.preset("tiny", num_tokens=4, token_dim=3, num_classes=10)
            >>> TarFlow(config).sample(torch.tensor([3, 7]), guidance=Guidance(2.0)).shape
            torch.Size([2, 4, 3])
        """
        if not temperature >= 0:
            raise ValueError(
                f"Expected temperature of at least 0; got {temperature}. Use 1 for the model's own."
            )
        if isinstance(label_or_count, int):
            label, count = None, label_or_count
        else:
            label, count = label_or_count, len(label_or_count)
        u = torch.randn(
            (count, self.config.num_tokens, self.config.token_dim),
            generator=generator,
            device=generator.device if generator else self.device,
            dtype=self.dtype,
        )
        return self.inverse(temperature * u.to(self.device), label, guidance=guidance)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of everything that the flow returns."""
        return next(self.parameters()).dtype

    def _tokens(self, tokens: Tensor) -> Tensor:
        """Check the tokens against the config and cast them to the dtype of the weights."""
        shape = (self.config.num_tokens, self.config.token_dim)
        if tokens.shape[1:] != shape:
            raise ValueError(
                f"Expected tokens of shape (b, {shape[0]}, {shape[1]}); got {tuple(tokens.shape)}. "
                "Build the flow with this num_tokens and token_dim."
            )
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Expected float32 or float64 weights; got {self.dtype}. "
                "Keep the weights in float32 and run the flow under torch.autocast."
            )
        return tokens.to(self.dtype)

    def _label(self, label: Tensor | None) -> Tensor | None:
        """Check labels that can be read for free and move them to the weights."""
        if label is None:
            return None
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_range(label)
        return label.to(self.device)

    def _check_range(self, label: Tensor) -> None:
        num_classes = self.config.num_classes
        if num_classes == 0:
            raise ValueError(
                "Expected label None for a flow without classes; got labels. "
                "Leave the label out, or build the flow with num_classes."
            )
        outside = label[(label < NULL_CLASS) | (label >= num_classes)]
        if len(outside):
            raise ValueError(
                f"Expected labels in 0..{num_classes - 1}, or -1 for the null class; "
                f"got {outside[0].item()}. Check num_classes of the config."
            )

    def _acts(self, guidance: Guidance) -> bool:
        """Tell whether any decoding rank is guided."""
        last = self.config.num_tokens - 1
        return any(guidance.strength(rank / last) for rank in range(1, last + 1))

    def _gemm_dtype(self) -> torch.dtype:
        """Return the dtype that the layers compute keys and values in."""
        kind = self.device.type
        # Autocast leaves float64 alone.
        if self.dtype == torch.float32 and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return self.dtype


def nll_per_dim(output: FlowOutput) -> Float[Tensor, " b"]:
    """Return ``mean(u^2) / 2 - log_det / (k d)``: nats per dimension, without the constant.

    This is the number that TarFlow and its descendants train on and print. The negative
    log-likelihood per dimension is this plus ``log(2 pi) / 2 = 0.9189``. A sample of pure
    standard noise scores 1/2 on average under the identity.

    Args:
        output: What the flow made of the data.

    Example:
        >>> nll_per_dim(FlowOutput(torch.ones(1, 4, 3), torch.tensor([6.0])))
        tensor([0.])
    """
    num_dims = output.u[0].numel()
    return 0.5 * reduce(output.u.square(), "b k d -> b", "mean") - output.log_det / num_dims
