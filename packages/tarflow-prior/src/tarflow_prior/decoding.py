"""From noise to data: a flow made ready to be inverted, for a fixed number of samples."""

from collections.abc import Callable, Iterable
from functools import wraps
from numbers import Integral
from typing import Any, NamedTuple, TypeVar, cast

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow_prior.block import Block, without_autocast
from tarflow_prior.checks import (
    accepted_tokens,
    check_noise,
    check_options,
    check_precision,
    check_whole,
    labels_in_range,
)
from tarflow_prior.config import check_type
from tarflow_prior.errors import NonFiniteError
from tarflow_prior.guidance import Guidance
from tarflow_prior.inversion import BlockDecoder, DecodingBuffers
from tarflow_prior.solvers import Sequential, Solver

_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
_Function = TypeVar("_Function", bound=Callable[..., Any])


def eagerly(function: _Function) -> _Function:
    """Run a function without gradients; inside a function under torch.compile, run it eagerly.

    Compiling it would trace thousands of steps, finds no kernel for packed products, and draws
    other noise.
    """
    plain = torch.inference_mode(mode=False)(torch.no_grad()(function))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            return plain(*args, **kwargs)
        # Not when the module is read, since it imports torch's compiler, which takes seconds.
        reason = "the inverse of a flow runs eagerly; Sequential(compiled=True) compiles its step"
        return torch.compiler.disable(plain, reason=reason)(*args, **kwargs)

    return cast(_Function, call)


class Decoded(NamedTuple):
    """Samples, with the proof of how well they meet their noise.

    Args:
        z: The samples.
        residual: Largest difference between the noise asked for and the noise that ``z`` encodes
            to, through the guided maps where guided, in the precision of the weights. ``z`` is
            the exact sample of a noise that is this near.
        sweeps: Parallel passes through each block, in forward order.
    """

    z: Float[Tensor, "b k d"]
    residual: Float[Tensor, " b"]
    sweeps: tuple[int, ...]


class Decoder:
    """The inverse of a flow for ``num_samples`` at a time, with its memory allocated once.

    ``flow.inverse`` and ``flow.sample`` make one for the call. Keep one where samples are drawn in
    many equal batches: weights are cast, steps compiled and CUDA graphs captured once. It
    reads the weights when it is made, and an ambient ``torch.autocast``, whose precision it keeps;
    make a new one after a training step. Weights that have changed are noticed, by their bits. It
    reuses its memory, so it is not thread-safe: give each thread a decoder of its own. A copy is
    made anew, in the same precision: of the flow's copy, if that is copied or pickled with it.

    Args:
        blocks: The blocks of the flow, in forward order.
        num_samples: Samples of one call.
        guidance: Classifier-free guidance, or None.
        solver: How blocks are inverted.

    Example:
        >>> from tarflow_prior import TarFlow, TarFlowConfig
        >>> flow = TarFlow(TarFlowConfig(num_tokens=4, token_dim=3, width=64, depths=(1, 1)))
        >>> decoder = flow.decoder(2)
        >>> decoder(torch.zeros(2, 4, 3)).z.shape
        torch.Size([2, 4, 3])
    """

    @eagerly
    def __init__(
        self,
        blocks: Iterable[nn.Module],
        num_samples: int,
        *,
        guidance: Guidance | None = None,
        solver: Solver | None = None,
    ) -> None:
        blocks = cast(list[Block], list(blocks))
        check_options(guidance, solver)
        solver = solver or Sequential()
        config, weights = blocks[0].config, blocks[0].head.weight
        check_precision(weights.dtype)
        check_whole(blocks, "Call unshard() on each sharded module, or decode with a whole copy.")
        check_type(Integral, "a whole number", "Write 16.", num_samples=num_samples)
        if num_samples < 1:
            raise ValueError(
                f"Expected num_samples of at least 1; got {num_samples}. "
                "Give the size of the batches to come."
            )
        if isinstance(solver, Sequential) and solver.cuda_graph and not weights.is_cuda:
            raise ValueError(
                f"Expected a flow on a CUDA device for cuda_graph=True; got {weights.device}. "
                "Move the flow there, or leave cuda_graph off."
            )
        guided = [_guides(guidance, block, blocks[-1]) for block in blocks]
        self._flow_blocks, self._options = blocks, (guidance, solver)
        self._buffers = DecodingBuffers(config, num_samples, 1 + any(guided), like=weights)
        self._blocks = [
            BlockDecoder(block, self._buffers, guidance if is_guided else None, solver)
            for block, is_guided in zip(blocks, guided, strict=True)
        ]
        self._contents = _contents(blocks)

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle what it is made of: packed weights and graphs can be neither."""
        buffers = self._buffers
        made_of = self._flow_blocks, buffers.num_samples, *self._options, buffers.gemm_dtype
        return _made_in_precision, (type(self), *made_of)

    @eagerly
    def __call__(
        self, u: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> Decoded:
        """Decode noise, and certify it.

        Args:
            u: Noise of ``num_samples`` samples, in the dtype of the weights.
            label: Class of each sample; -1 or None is the null class.

        Raises:
            ValueError, RuntimeError, NonFiniteError: As :meth:`decode`.
        """
        u, label = self._accepted(u, label)
        z, sweeps = self.decode(u, label)
        with without_autocast(u):
            state = z
            for block in self._blocks:
                state = block.encode(state, label)
        return Decoded(z, reduce((state - u).abs(), "b k d -> b", "max"), sweeps)

    @eagerly
    def decode(
        self, u: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b k d"], tuple[int, ...]]:
        """Decode noise without the parallel pass that certifies it.

        Args:
            u: Noise of ``num_samples`` samples, in the dtype of the weights.
            label: Class of each sample; -1 or None is the null class.

        Returns:
            The samples, and the parallel passes through each block in forward order.

        Raises:
            ValueError: If noise or labels do not fit the flow or ``num_samples``.
            RuntimeError: If the weights have changed since the decoder was made.
            NonFiniteError: If a sample overflowed.
        """
        u, label = self._accepted(u, label)
        if len(u) != self._buffers.num_samples:
            raise ValueError(
                f"Expected noise of {self._buffers.num_samples} samples, for which this decoder "
                f"was made; got {len(u)}. Use in_tiles, or make another decoder."
            )
        states, sweeps = self._states(u, label)
        if not states[-1].isfinite().all():
            raise NonFiniteError.found(states[-1], states, 0, self._flow_blocks)
        return states[-1], sweeps

    def sample(
        self,
        label: Int[Tensor, " b"] | None = None,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Draw ``num_samples`` sequences: the first ones of ``TarFlow.sample``, then the next.

        Args:
            label: Class of each sample; -1 or None is the null class.
            temperature: Standard deviation of the base noise, at least 0.
            generator: Source of the noise, as for :meth:`TarFlow.sample`.

        Raises:
            ValueError: If the temperature is negative, or as :meth:`decode`.
            RuntimeError, NonFiniteError: As :meth:`decode`.
        """
        check_noise(temperature, generator)
        noise = draw_noise(self._buffers.num_samples, self._buffers.noise, generator)
        return self.decode(temperature * noise, label)[0]

    def _accepted(self, u: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Check noise and labels, and bring them to the dtype and the device that decode them."""
        config = self._flow_blocks[0].config
        u = accepted_tokens(u, config, self._buffers.noise.dtype)
        if label is not None:
            label = labels_in_range(label, config, len(u)).to(u.device)
        return u, label

    def _states(self, u: Tensor, label: Tensor | None) -> tuple[list[Tensor], tuple[int, ...]]:
        """Return the noise and the tokens after each block, in decoding order."""
        if _contents(self._flow_blocks) != self._contents:
            raise RuntimeError(
                "Expected the weights that this decoder was made of; they have changed. "
                "Make a new decoder after a training step."
            )
        states, sweeps = [u], []
        with without_autocast(u):
            for block in reversed(self._blocks):
                z, count = block.invert(states[-1], label)
                states.append(z)
                sweeps.append(count)
        return states, tuple(reversed(sweeps))

    @eagerly
    def in_tiles(
        self, u: Float[Tensor, "n k d"], label: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n k d"]:
        """Decode any number of samples, ``num_samples`` at a time; the last tile is filled up.

        Args:
            u: Noise, in the dtype of the weights.
            label: Class of each sample; -1 or None is the null class.

        Raises:
            ValueError: If noise or labels do not fit the flow, or each other.
            RuntimeError, NonFiniteError: As :meth:`decode`.
        """
        u, label = self._accepted(u, label)
        if not len(u):
            return u
        size, z = self._buffers.num_samples, torch.empty_like(u)
        broken: tuple[list[Tensor], int] | None = None  # the first tile with an overflow
        for start in range(0, len(u), size):
            rows = slice(start, start + size)
            part_label = None if label is None else _filled(label[rows], size)
            states, _ = self._states(_filled(u[rows], size), part_label)
            z[rows] = states[-1][: len(z[rows])]
            if broken is None and not z[rows].isfinite().all():
                broken = states, start
        if broken is not None:
            raise NonFiniteError.found(z, *broken, self._flow_blocks)
        return z


def _made_in_precision(
    kind: type[Decoder],
    blocks: list[Block],
    num_samples: int,
    guidance: Guidance | None,
    solver: Solver,
    dtype: torch.dtype,
) -> Decoder:
    """Make a decoder whose GEMMs run in a dtype, whatever the ambient autocast."""
    weights = blocks[0].head.weight
    with torch.autocast(weights.device.type, dtype, enabled=dtype != weights.dtype):
        return kind(blocks, num_samples, guidance=guidance, solver=solver)


@eagerly
def draw_noise(
    count: int, like: Float[Tensor, "_ k d"], generator: torch.Generator | None
) -> Float[Tensor, "{count} k d"]:
    """Draw base noise where its generator lives, sample by sample: batch sizes do not matter.

    Args:
        count: Samples.
        like: Tensor of the wanted tokens, dtype and device.
        generator: Source of the noise; None is torch's own on the device.
    """
    device = generator.device if generator else like.device
    rows = [
        torch.randn(like.shape[1:], generator=generator, device=device, dtype=like.dtype)
        for _ in range(count)
    ]
    return torch.stack(rows).to(like.device) if rows else like.new_empty(0, *like.shape[1:])


def _filled(rows: Tensor, size: int) -> Tensor:
    """Repeat the first row until there are as many as are decoded together."""
    missing = size - len(rows)
    return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])]) if missing else rows


def _contents(blocks: Iterable[Block]) -> list[tuple[int, int]]:
    """Return where each weight lies and the sum of its bits, read as whole numbers.

    Fused optimizers and ``.data`` write without counting, so versions would not tell.
    """
    weights = [weight.detach() for block in blocks for weight in block.parameters()]
    sums = [weight.view(_WHOLE_NUMBERS[weight.element_size()]).sum() for weight in weights]
    places = [weight.data_ptr() for weight in weights]
    return list(zip(places, torch.stack(sums).tolist() if sums else [], strict=True))


def _guides(guidance: Guidance | None, block: Block, last: Block) -> bool:
    """Tell whether guidance moves any token of the block."""
    if guidance is None or (guidance.needs_classes and block.classes is None):
        return False
    return (block is last or guidance.blocks == "all") and any(
        guidance.strengths(block.config.num_tokens)
    )
