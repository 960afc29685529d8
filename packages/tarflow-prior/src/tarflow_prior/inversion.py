"""One block, from noise to data: by steps, by sweeps, eagerly or as one graph."""

import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from tarflow_prior.affine import Affine, branches, guide
from tarflow_prior.attention import (
    Attend,
    KeyValueCache,
    Layer,
    causal_attention,
    is_plain,
    sharpened,
)
from tarflow_prior.block import Block
from tarflow_prior.config import TarFlowConfig
from tarflow_prior.cuda_graph import captured
from tarflow_prior.guidance import Guidance
from tarflow_prior.packed import PackedLayer, can_pack
from tarflow_prior.solvers import Auto, GaussSeidel, Jacobi, Sequential, Solver, cut

DecodingLayer = Callable[[Tensor, Attend], Tensor]
_LARGEST_GUESS = 1e12  # its square, times the width of a layer, is a float32


class DecodingBuffers:
    """The memory of one decoding, shared by the blocks: only one may use it at a time."""

    def __init__(
        self, config: TarFlowConfig, num_samples: int, branches: int, *, like: Tensor
    ) -> None:
        shape = (num_samples, config.num_tokens, config.token_dim)
        num_rows = branches * num_samples
        self.num_samples = num_samples
        self.gemm_dtype = _gemm_dtype(like)
        self.noise = like.new_zeros(shape)
        self.tokens = like.new_zeros(shape)
        self.classes = like.new_zeros(num_rows, 1, config.width)
        self.rank = torch.zeros(1, dtype=torch.long, device=like.device)
        self.cache = KeyValueCache(config, num_rows, dtype=self.gemm_dtype, device=like.device)


def _gemm_dtype(weights: Tensor) -> torch.dtype:
    """Return what an ambient autocast lets the GEMMs run in; it leaves float64 alone."""
    kind = weights.device.type
    if weights.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weights.dtype


class BlockDecoder:
    """Inverts one block. Rows are the samples, and the same once more for the null class."""

    def __init__(
        self, block: Block, buffers: DecodingBuffers, guidance: Guidance | None, solver: Solver
    ) -> None:
        self.block, self.buffers, self.guidance, self.solver = block, buffers, guidance, solver
        # The solver if all its steps have the same shapes.
        self.fixed = solver if isinstance(solver, Sequential) and solver.is_fixed else None
        self.exact_layers = cast(list[Layer], list(block.layers))
        self.layers = self._decoding_layers()
        self.positions = block.positions_by_rank().detach()
        num_tokens = block.config.num_tokens
        strengths = guidance.strengths(num_tokens) if guidance else [0.0] * (num_tokens - 1)
        self.strengths = strengths  # of the successors of ranks 0..k-2
        self.weights = rearrange(buffers.noise.new_tensor(strengths), "t -> t 1")
        # What multiplies the attention logits of each row, if it is not 1 for all.
        self.sharpness = _sharpness(guidance, buffers.classes)
        self.jacobi_is_slow = False
        self.graphs: dict[bool, Callable[[], object]] = {}

    def _decoding_layers(self) -> list[DecodingLayer]:
        dtype, rows = self.buffers.gemm_dtype, len(self.buffers.classes)
        if not all(map(is_plain, self.exact_layers)):
            return [partial(_under_autocast, layer, dtype) for layer in self.exact_layers]
        if self.fixed or not can_pack(self.buffers.tokens.device, dtype):
            return [layer.for_decoding(dtype) for layer in self.exact_layers]
        return [PackedLayer(layer, dtype, rows) for layer in self.exact_layers]

    def invert(self, u: Tensor, label: Tensor | None) -> tuple[Tensor, int]:
        """Return the tokens whose (guided) encoding is ``u``, and the passes it took."""
        self._load(u, label)
        match self.solver:
            case Sequential(polish=polish):
                sweeps = self._decode_by_step() + self._polish(polish)
            case Auto(tol=tol):
                sweeps = self._race(tol)
            case Jacobi():
                sweeps = self._sweep_segments(1, self.solver)
            case GaussSeidel(segments=segments):
                sweeps = self._sweep_segments(segments, self.solver)
        return self.block.in_decoding_order(self.buffers.tokens.clone()), sweeps

    def encode(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Return the noise of ``z`` under the (guided) block, in the precision of the weights."""
        self._load(z, label)
        self.buffers.tokens.copy_(self.buffers.noise)
        rest = self._parallel_affine().to_noise(self.buffers.tokens[:, 1:])
        return self.block.in_decoding_order(torch.cat([self.buffers.tokens[:, :1], rest], dim=1))

    def _load(self, noise: Tensor, label: Tensor | None) -> None:
        buffers = self.buffers
        buffers.noise.copy_(self.block.in_decoding_order(noise))
        buffers.tokens.copy_(buffers.noise)
        buffers.classes[: buffers.num_samples] = self.block.class_vector(label)
        if self.guidance:
            buffers.classes[buffers.num_samples :] = self.block.class_vector(None)
        self.null_cached = 0  # ranks of which the null branch's keys and values are there

    def _decode_by_step(self) -> int:
        """Decode token by token: exact, since every token has all of its past."""
        if self.fixed:
            self.buffers.cache.clear()
        for rank, strength in enumerate(self.strengths):
            self._fill_null(rank, is_guided=strength > 0)
            self._step(rank, is_guided=strength > 0)
        return len(self.strengths)

    def _step(self, rank: int, *, is_guided: bool) -> None:
        if self.fixed:
            self.buffers.rank.fill_(rank)
            if is_guided not in self.graphs:
                self.graphs[is_guided] = self._graph(self.fixed, is_guided=is_guided)
            self.graphs[is_guided]()
        else:
            affine = self._affine(rank, rank + 1, is_guided=is_guided)
            successor = slice(rank + 1, rank + 2)
            self.buffers.tokens[:, successor] = affine.to_tokens(self.buffers.noise[:, successor])
        self.null_cached = rank + 1 if is_guided else self.null_cached

    def _affine(self, start: int, stop: int, *, is_guided: bool) -> Affine:
        """Predict the successors of ranks start..stop-1, whose past is in the cache."""
        rows = slice(self.buffers.num_samples * (2 if is_guided else 1))
        return self._predict(
            self.buffers.tokens[:, start:stop],
            self.positions[:, start:stop] + self.buffers.classes[rows],
            self._sharpened(self.buffers.cache.attends(start, stop, rows=rows), rows),
            self.weights[start:stop] if is_guided else None,
        )

    def _predict(
        self, tokens: Tensor, context: Tensor, attends: Iterable[Attend], weight: Tensor | None
    ) -> Affine:
        if weight is None or self.guidance is None:
            return self.block.affine(tokens, context, self.layers, attends)
        both = self.block.affine(torch.cat([tokens, tokens]), context, self.layers, attends)
        return guide(self.guidance.rule, *branches(both), weight)

    def _parallel_affine(self) -> Affine:
        """Predict all successors in one pass, in the precision of the weights."""
        tokens = self.buffers.tokens[:, :-1]
        copies = 2 if self.guidance else 1
        rows = slice(copies * self.buffers.num_samples)
        affine = self.block.affine(
            torch.cat([tokens] * copies),
            self.positions + self.buffers.classes[rows],
            self.exact_layers,
            self._sharpened([causal_attention] * len(self.exact_layers), rows),
        )
        if self.guidance is None:
            return affine
        return guide(self.guidance.rule, *branches(affine), self.weights)

    def _sharpened(self, attends: Iterable[Attend], rows: slice) -> Iterable[Attend]:
        if self.sharpness is None or rows.stop == self.buffers.num_samples:  # no null branch
            return attends
        return sharpened(attends, self.sharpness[rows])

    def _fill_null(self, rank: int, *, is_guided: bool) -> None:
        """Catch up with the ranks that the null branch has skipped while nothing was guided."""
        if not is_guided or self.null_cached >= rank:
            return
        rows = slice(self.buffers.num_samples, 2 * self.buffers.num_samples)
        past = slice(self.null_cached, rank)
        self.block.affine(
            self.buffers.tokens[:, past],
            self.positions[:, past] + self.buffers.classes[rows],
            self.layers,
            self._sharpened(self.buffers.cache.attends(past.start, past.stop, rows=rows), rows),
        )
        self.null_cached = rank

    def _sweep_segments(self, parts: int, limits: Jacobi | GaussSeidel) -> int:
        """Sweep one segment of tokens after the other, and return the sweeps."""
        sweeps, residual = 0, 0.0
        for start, stop in cut(self.block.config.num_tokens, parts):
            count, worst = self._sweep(start, stop, limits)
            sweeps, residual = sweeps + count, max(residual, worst)
        if residual > limits.tol:
            warnings.warn(
                f"Expected noise met within tol={limits.tol} after max_iterations="
                f"{limits.max_iterations} sweeps; got {residual:.2g} in one block. "
                "Raise max_iterations, or leave it None for exact samples.",
                stacklevel=5,
            )
        return sweeps

    def _sweep(self, start: int, stop: int, limits: Jacobi | GaussSeidel) -> tuple[int, float]:
        """Sweep the tokens of rank start..stop-1 to their fixed point, sample by sample.

        Returns the sweeps, and the largest difference in noise of a sample that is not exact.
        """
        tokens, noise = self.buffers.tokens[:, start:stop], self.buffers.noise[:, start:stop]
        is_guided = any(self.strengths[start - 1 : stop - 1])
        self._fill_null(start - 1, is_guided=is_guided)
        exact_after = stop - start
        is_open = noise.new_ones(len(noise), 1, 1, dtype=torch.bool)  # samples yet to converge
        for count in range(1, min(limits.max_iterations or exact_after, exact_after) + 1):
            affine = self._affine(start - 1, stop - 1, is_guided=is_guided)
            update = affine.to_tokens(noise)
            if count == exact_after:
                tokens.copy_(torch.where(is_open, update, tokens))
                return count, 0.0
            off = (update - tokens).abs() * torch.exp(-affine.log_scale)
            gap = reduce(off, "b t d -> b 1 1", "max")
            is_open = ~(gap <= limits.tol)  # NaN stays open
            if not is_open.any():
                return count, 0.0
            # The first tokens are exact. A guess that overflows in a norm would poison all tokens
            # by 0 * NaN; any start will do.
            guess = update.nan_to_num(0.0).clamp(-_LARGEST_GUESS, _LARGEST_GUESS)
            guess[:, :count] = update[:, :count]
            tokens.copy_(torch.where(is_open, guess, tokens))
        # What the last sweep could not make finite is no sample, whatever the guess was.
        sound = rearrange(update.isfinite().all(2).all(1), "b -> b 1 1")
        tokens.copy_(torch.where(sound, tokens, torch.nan))
        return count, gap.nan_to_num(nan=torch.inf).max().item()

    def _race(self, tol: float) -> int:
        """Sweep for as long as the sequential pass would take, then take that."""
        num_steps = len(self.strengths)
        spent = 0
        if not self.jacobi_is_slow:
            step = self._seconds(0, 1)
            budget = int(num_steps * step / self._seconds(0, num_steps))
            if budget >= 1:
                spent, residual = self._sweep(1, num_steps + 1, Jacobi(tol, budget))
                if residual <= tol:
                    return spent
            self.jacobi_is_slow = True
            self.buffers.tokens.copy_(self.buffers.noise)
            self.null_cached = 0
        return spent + self._decode_by_step()

    def _seconds(self, start: int, stop: int) -> float:
        """Time a pass over some ranks, after one that warms up."""
        for _ in range(2):
            _synchronize(self.buffers.tokens)
            began = time.perf_counter()
            self._affine(start, stop, is_guided=self.guidance is not None)
            _synchronize(self.buffers.tokens)
        return time.perf_counter() - began

    def _polish(self, sweeps: int) -> int:
        """Sweep all tokens in the precision of the weights, if the draft was rounded."""
        if self.buffers.gemm_dtype == self.buffers.tokens.dtype:
            return 0
        for _ in range(sweeps):
            affine = self._parallel_affine()
            self.buffers.tokens[:, 1:] = affine.to_tokens(self.buffers.noise[:, 1:])
        return sweeps

    def _graph(self, solver: Sequential, *, is_guided: bool) -> Callable[[], object]:
        """Return the step that reads its rank from the buffers, compiled, captured, or both."""
        step = partial(self.step_at, self.buffers.rank, is_guided=is_guided)
        if solver.compiled:
            compiled = torch.compile(self.step_at, fullgraph=True, dynamic=False)
            step = partial(compiled, self.buffers.rank, is_guided=is_guided)
            # Depths, batches and rules have a graph each, of which torch would refuse the ninth.
            with torch._dynamo.config.patch(recompile_limit=1024):
                step()  # a step may run twice: it writes the same
        return captured(step, self.buffers.tokens.device) if solver.cuda_graph else step

    def step_at(self, rank: Tensor, *, is_guided: bool) -> None:
        """Decode the successor of a rank known to the device alone: one graph for all ranks."""
        buffers = self.buffers
        rows = slice(buffers.num_samples * (2 if is_guided else 1))
        affine = self._predict(
            buffers.tokens.index_select(1, rank),
            self.positions.index_select(1, rank) + buffers.classes[rows],
            self._sharpened(buffers.cache.attends_at(rank, num_rows=rows.stop), rows),
            self.weights.index_select(0, rank) if is_guided else None,
        )
        noise = buffers.noise.index_select(1, rank + 1)
        buffers.tokens.index_copy_(1, rank + 1, affine.to_tokens(noise))


def _under_autocast(
    layer: Layer, dtype: torch.dtype, h: Float[Tensor, "b t width"], attend: Attend
) -> Float[Tensor, "b t width"]:
    """Run a layer itself, with whatever wraps or hooks it."""
    with torch.autocast(h.device.type, dtype, enabled=dtype != h.dtype):
        output: Tensor = layer(h, attend)
    return output


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _sharpness(guidance: Guidance | None, classes: Tensor) -> Tensor | None:
    """Return 1 for the rows of the class branch, the inverse temperature for the null branch's."""
    if guidance is None or guidance.attention_temperature == 1:
        return None
    sharpness = torch.ones_like(classes[:, :, :1, None])
    sharpness[len(classes) // 2 :] /= guidance.attention_temperature
    return sharpness
