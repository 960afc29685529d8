"""The flow: blocks of alternating token order, from data to noise and back.

Precision, for the whole package: under an ambient ``torch.autocast`` the GEMMs of attention, gate
and MLP run in its dtype, and the keys and values are cached in it. Tokens, residual stream,
norms, input projection, output head, soft clip, exponential, affine map, guidance and
log-determinant keep the dtype of the weights, float32 or float64; scale and log-determinant
are made of the same unrounded tensor.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow_prior.block import Block, FlowOutput, nll_per_dim
from tarflow_prior.checks import (
    accepted_labels,
    accepted_tokens,
    check_config,
    check_count,
    check_noise,
    check_options,
    check_range_if_free,
    check_tensor,
    check_tile,
    labels_in_range,
)
from tarflow_prior.config import TarFlowConfig
from tarflow_prior.decoding import Decoded, Decoder, draw_noise
from tarflow_prior.distribution import TarFlowDistribution
from tarflow_prior.guidance import Guidance
from tarflow_prior.likelihood import classify, denoise, score
from tarflow_prior.pretrained import load, save_pretrained
from tarflow_prior.published import from_published
from tarflow_prior.solvers import Solver

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
        check_config(config)
        self.config = config
        self.blocks = nn.ModuleList(
            Block(
                config,
                depth=depth,
                flipped=index % 2 == 1,
                is_conditional=index >= len(config.depths) - config.num_class_tables,
            )
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
                would stall the queue; in a vmap torch's IndexError), or the weights are neither
                float32 nor float64.
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
        state = accepted_tokens(z, self.config, self.dtype)
        label = self._label(label, state)
        for block in self.blocks:
            output = block(state, label)
            yield output
            state = output.u

    def inverse(
        self,
        u: Float[Tensor, "b k d"],
        label: Int[Tensor, " b"] | None = None,
        *,
        guidance: Guidance | None = None,
        solver: Solver | None = None,
        tile: int | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Map noise to data, without gradients (``conditional(label).rsample()`` has them).

        Args:
            u: Noise; it is cast to the dtype of the weights.
            label: Class of each sample in ``0..num_classes-1``; -1 or None is the null class.
            guidance: Classifier-free guidance towards ``label``. It has nothing to act on, and
                costs nothing, where its scale is 0, its interval is empty, or ``label`` is None
                and its ``attention_temperature`` 1.
            solver: How blocks are inverted; None is ``Sequential()``.
            tile: Samples decoded together, a power of two, the last tile filled up; None is all of
                them. With a tile the bits of a sample do not depend on the batch that it is drawn
                in; without, matrix products of other sizes may round differently.

        Raises:
            ValueError: As :meth:`forward`; labels are checked on every device.
            NonFiniteError: If a sample overflowed. The error holds those decoded with it.
        """
        u, label, guidance = self._decodable(u, label, guidance, solver)
        check_tile(tile)
        if not len(u):
            return u
        decoder = self.decoder(tile or len(u), guidance=guidance, solver=solver)
        return decoder.in_tiles(u, label)

    def decode(
        self,
        u: Float[Tensor, "b k d"],
        label: Int[Tensor, " b"] | None = None,
        *,
        guidance: Guidance | None = None,
        solver: Solver | None = None,
    ) -> Decoded:
        """Map noise to data as :meth:`inverse` does, and certify every sample.

        The certificate costs one parallel pass.

        Args:
            u: Noise, as for :meth:`inverse`.
            label: Class of each sample, as for :meth:`inverse`.
            guidance: Classifier-free guidance, as for :meth:`inverse`.
            solver: How blocks are inverted, as for :meth:`inverse`.

        Raises:
            ValueError, NonFiniteError: As :meth:`inverse`.
        """
        u, label, guidance = self._decodable(u, label, guidance, solver)
        if not len(u):
            return Decoded(u, u.new_zeros(0), (0,) * len(self.blocks))
        return self.decoder(len(u), guidance=guidance, solver=solver)(u, label)

    def decoder(
        self, num_samples: int, *, guidance: Guidance | None = None, solver: Solver | None = None
    ) -> Decoder:
        """Return the inverse, made ready to decode batches of one size many times.

        Args:
            num_samples: Samples of each batch.
            guidance: Classifier-free guidance, as for :meth:`inverse`.
            solver: How blocks are inverted, as for :meth:`inverse`.
        """
        return Decoder(self.blocks, num_samples, guidance=guidance, solver=solver)

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

    def conditional(self, label: Int[Tensor, "*batch"] | None = None) -> TarFlowDistribution:
        """Return ``p(z | label)`` as a :class:`torch.distributions.Distribution`.

        Args:
            label: Classes of any shape, which becomes ``batch_shape``; None is one null class.

        Example:
            >>> config = TarFlowConfig.preset("tiny", num_tokens=4, token_dim=3, num_classes=10)
            >>> density = TarFlow(config).conditional(torch.tensor([3, 7]))
            >>> density.log_prob(density.rsample((5,))).shape
            torch.Size([5, 2])
        """
        if label is not None:
            check_tensor(label=label)
            labels_in_range(label.flatten(), self.config, label.numel())
            label = label.long()
        return TarFlowDistribution(self, label)

    classify, score, denoise = classify, score, denoise  # likelihood.py
    save_pretrained = save_pretrained
    from_published = classmethod(from_published)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "TarFlow":
        """Read a flow from the folder that :meth:`save_pretrained` wrote, on the CPU.

        Args:
            folder: Where from.

        Raises:
            FileNotFoundError: If one of the files is missing.
            ValueError: If a file is damaged, a field unknown, or the files do not belong together.
        """
        return load(cls, Path(folder))

    def sample(
        self,
        label_or_count: Int[Tensor, " b"] | int,
        *,
        guidance: Guidance | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        solver: Solver | None = None,
        tile: int | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Draw sequences from the flow.

        Args:
            label_or_count: The class of each sample, or how many samples of the null class.
            guidance: Classifier-free guidance, as for :meth:`inverse`.
            temperature: Standard deviation of the base noise, at least 0.
            generator: Source of the noise, on any device; the noise is drawn where it lives, one
                sample after the other: 8 samples are those of 4 and then 4.
            solver: How blocks are inverted, as for :meth:`inverse`.
            tile: Samples decoded together, as for :meth:`inverse`.

        Raises:
            ValueError: If the temperature is negative, or a label is out of range.
            NonFiniteError: If a sample overflowed. The error holds the others.

        Example:
            >>> config = TarFlowConfig.preset("tiny", num_tokens=4, token_dim=3, num_classes=10)
            >>> TarFlow(config).sample(torch.tensor([3, 7]), guidance=Guidance(2.0)).shape
            torch.Size([2, 4, 3])
        """
        check_noise(temperature, generator)
        if isinstance(label_or_count, Tensor):
            count = label_or_count.numel()
            label = accepted_labels(label_or_count, self.config, count)
        else:
            check_count(label_or_count)
            count, label = label_or_count, None
        like = self._weight.new_empty(0, self.config.num_tokens, self.config.token_dim)
        u = temperature * draw_noise(count, like, generator)
        return self.inverse(u, label, guidance=guidance, solver=solver, tile=tile)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        return cast(Block, self.blocks[0]).positions  # DataParallel's replicas list no parameters

    def _label(self, label: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Check labels that can be read for free and move them to the weights."""
        if label is None:
            return None
        label = accepted_labels(label, self.config, tokens.shape[0])
        check_range_if_free(label, self.config)
        return label.to(self.device)

    def _decodable(
        self, u: Tensor, label: Tensor | None, guidance: Guidance | None, solver: Solver | None
    ) -> tuple[Tensor, Tensor | None, Guidance | None]:
        """Check what is to be decoded, and drop a guidance that has nothing to act on."""
        u = accepted_tokens(u, self.config, self.dtype).detach()
        if label is not None:
            label = labels_in_range(label, self.config, len(u)).to(self.device)
        check_options(guidance, solver)
        if guidance is not None and guidance.needs_classes and label is None:
            guidance = None
        return u, label, guidance
