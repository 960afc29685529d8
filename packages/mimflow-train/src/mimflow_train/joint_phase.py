"""One step of the joint phase: everything is trained on the joint objective (Eq. 5-7)."""

import contextlib

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mimflow_train.config import TrainConfig
from mimflow_train.device.captured_pass import CapturedPass
from mimflow_train.device.machine import require_gpu_for_graph
from mimflow_train.device.memory import (
    blank_batch,
    fit_micro_batch,
    room_for_moments,
    set_computation,
)
from mimflow_train.draws import Draws
from mimflow_train.engine.all_reduce import average_gradients
from mimflow_train.engine.context import Context
from mimflow_train.engine.sharding import shards_weights, whole
from mimflow_train.errors import ConfigError
from mimflow_train.micro_batches import Batch, MicroBatch, add_terms, micro_batches, precision
from mimflow_train.objective import Objective, joint_objective
from mimflow_train.state import TrainState, take_step
from mimflow_train.teachers import Targets
from mimflow_train.telemetry.health import latent_values

__all__ = ["JointPhase"]


class JointPhase:
    """Encoder, flow, decoder and feature decoders learn together.

    Args:
        state: What is trained.
        context: This worker among its peers.
        config: The run.
        targets: The frozen networks.

    Raises:
        ConfigError: If ``cuda_graph`` is asked for and a pass cannot be one.
    """

    def __init__(
        self, state: TrainState, context: Context, config: TrainConfig, targets: Targets
    ) -> None:
        self.state, self.context, self.config, self.targets = state, context, config, targets
        sharded = shards_weights(config, context.world_size)
        if config.cuda_graph:
            require_gpu_for_graph(context.device.type, sharded=sharded)
            _require_no_wait(config, targets)
        self.module = self.learner
        self.captured: CapturedPass | None = None
        self.is_captured = False  # not while passes are tried out
        if not sharded:  # a worker short of memory amid a pass would leave the others waiting
            self.config = fit_micro_batch(config, context, self.try_out, state.model)
        set_computation(state.model, config, context.device)
        if sharded:
            state.shard(context.device)
        elif context.world_size > 1 and not config.cuda_graph:
            self.module = DistributedDataParallel(self.learner, gradient_as_bucket_view=True)
            # They are constants. Not an argument, whose name differs between versions of torch.
            self.module.broadcast_buffers = False
            self._settle_buckets()
        self.is_captured = config.cuda_graph

    @property
    def learner(self) -> nn.Module:
        """What has weights that learn, and is called once in a pass."""
        return self.state.model

    def try_out(self, batch: Batch, draws: Draws) -> None:
        """Run a forward and a backward pass as a step would, of which nothing stays."""
        try:
            with room_for_moments(self.state.optimizer):
                self.gradients(batch, draws)
        finally:
            self.state.optimizer.zero_grad()

    def _settle_buckets(self) -> None:
        """Run one pass that teaches nothing; of a step's kind, whose compiled layers it leaves.

        DDP sorts its buckets anew after its first pass, and sums over three workers or more depend
        on the buckets: without this, a run that goes on differs in the last bits from one that was
        never stopped.
        """
        share = self.config.global_batch // self.context.world_size
        self.try_out(*blank_batch(self.config, self.config.micro_batch or share))

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Add up the gradients of the batch, one micro-batch at a time."""
        sums: dict[str, Tensor] = {}
        device = self.context.device
        for part in micro_batches(device, self.config, batch, draws):
            quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if not part.is_last and isinstance(self.module, DistributedDataParallel):
                quiet = self.module.no_sync()
            with quiet:
                objective = self._pass(part)
            add_terms(sums, objective, part.num_parts)
        if self.is_captured:  # DDP would average amid the backward pass
            average_gradients(self.state.model.parameters(), self.context.world_size)
        return sums

    def _pass(self, part: MicroBatch) -> Objective:
        if not self.is_captured:
            return self._add_gradients(part)
        places = part.indices.to(part.image.device, non_blocking=True)
        part = part._replace(indices=places)
        if self.captured is None:
            weights = self.state.model.parameters()
            self.captured = CapturedPass(self._add_gradients, weights, part)
        return self.captured(part)

    def _add_gradients(self, part: MicroBatch) -> Objective:
        with precision(self.context.device, self.config.precision):
            objective = self.objective(part)
        (objective.total / part.num_parts).backward()
        return objective

    def objective(self, part: MicroBatch) -> Objective:
        """Return the joint objective of a micro-batch."""
        # What needs the images alone comes first, and in one piece.
        targets = self.targets.features(part.image, part.indices)
        perceptual = self.targets.distance_to(part.image)
        masked, noise, depth = part.draws.masked, part.draws.noise, part.draws.depth
        output = self.module(part.image, part.label, masked, noise, depth)
        self.mean = output.posterior.mean.detach()
        return joint_objective(
            output,
            part.image,
            masked,
            weights=self.config.loss,
            targets=targets,
            perceptual=perceptual,
        )

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient of all weights as one."""
        parameters = self.state.model.parameters()
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip_norm)
        return {"gradient_norm": whole(norm)}

    def update(self) -> dict[str, Tensor]:
        """Take a step of AdamW."""
        optim = self.config.optim
        take_step(self.state.optimizer, optim, self.state.step, self.config.steps)
        self.state.average(optim.ema_decay)
        return {}

    def skip(self) -> None:
        """Drop the gradients."""
        self.state.optimizer.zero_grad()

    def latents(self) -> dict[str, float]:
        """Return the statistics of the newest micro-batch's posterior."""
        return latent_values(self.mean, self.config.model.encoder.sigma)


def _require_no_wait(config: TrainConfig, targets: Targets) -> None:
    """Raise if host and GPU wait for each other in a pass, which no CUDA graph can hold."""
    if config.model.encoder.hidden_patches == "dropped":
        found = "hidden_patches 'dropped', whose visible patches are counted"
    elif any(bank.device.type == "cpu" for bank in targets.banks.values()):
        found = "features of the images that take too much memory to be kept there"
    else:
        return
    raise ConfigError(
        f"Expected a pass that stays on the GPU with cuda_graph; got {found}. Leave cuda_graph out."
    )
