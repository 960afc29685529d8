"""One optimiser step of either phase: gradients of a batch, their clipping, the update."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from mimflow_train.config import OptimConfig, TrainConfig
from mimflow_train.context import Context
from mimflow_train.discriminator import hinge_discriminator
from mimflow_train.draws import Draws
from mimflow_train.errors import ConfigError
from mimflow_train.objective import Objective, decoder_objective, joint_objective
from mimflow_train.state import DecoderState, State, TrainState, learning_rate
from mimflow_train.teachers import Targets

__all__ = ["DecoderPhase", "JointPhase", "Phase", "phase_of"]


class Batch(NamedTuple):
    """A worker's images, their labels, and their places in the training set."""

    image: Tensor
    label: Tensor
    indices: Tensor


@runtime_checkable
class Phase(Protocol):
    """What the loop asks of a phase, in this order, at every step."""

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Fill the gradients of all trained weights; return the mean of each term."""

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradients; return their norms before."""

    def update(self) -> None:
        """Move the weights and their average, and drop the gradients."""

    def skip(self) -> None:
        """Drop the gradients."""


def phase_of(state: State, context: Context, config: TrainConfig, targets: Targets) -> Phase:
    """Return the phase that a state belongs to."""
    if isinstance(state, DecoderState):
        return DecoderPhase(state, context, config, targets)
    return JointPhase(state, context, config, targets)


class JointPhase:
    """Everything is trained on the joint objective (Eq. 5-7)."""

    def __init__(
        self, state: TrainState, context: Context, config: TrainConfig, targets: Targets
    ) -> None:
        self.state, self.context, self.config, self.targets = state, context, config, targets
        self.module: nn.Module = state.model
        if context.world_size > 1:
            self.module = DistributedDataParallel(state.model, gradient_as_bucket_view=True)

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Add up the gradients of the batch, one micro-batch at a time."""
        sums: dict[str, Tensor] = {}
        for part in _micro_batches(self.context, self.config, batch, draws):
            quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if not part.is_last and isinstance(self.module, DistributedDataParallel):
                quiet = self.module.no_sync()
            with quiet:
                with _precision(part.image.device, self.config.precision):
                    output = self.module(part.image, part.label, part.masked, part.noise)
                    objective = joint_objective(
                        output,
                        part.image,
                        part.masked,
                        weights=self.config.loss,
                        targets=self.targets.features(part.image, part.indices),
                        perceptual=self.targets.perceptual,
                    )
                (objective.total / part.num_parts).backward()
            _add(sums, objective, part.num_parts)
        return sums

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient of all weights as one."""
        parameters = self.state.model.parameters()
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip_norm)
        return {"gradient_norm": norm}

    def update(self) -> None:
        """Take a step of AdamW."""
        optim = self.config.optim
        _step(self.state.optimizer, optim, self.state.step, self.config.steps)
        self.state.average(optim.ema_decay)

    def skip(self) -> None:
        """Drop the gradients."""
        self.state.optimizer.zero_grad()


class DecoderPhase:
    """The decoder is trained against a discriminator (Eq. 8), from latents of masked images.

    Encoder and flow stay as they are. Decoder and discriminator have an optimiser each.
    """

    def __init__(
        self, state: DecoderState, context: Context, config: TrainConfig, targets: Targets
    ) -> None:
        self.state, self.context, self.config, self.targets = state, context, config, targets
        self.phase = config.decoder_phase
        self.decoder_parameters = list(state.model.decoder.parameters())
        self.discriminator_parameters = list(state.discriminator.parameters())

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Add up the gradients of both networks, one micro-batch at a time."""
        sums: dict[str, Tensor] = {}
        for part in _micro_batches(self.context, self.config, batch, draws):
            with _precision(part.image.device, self.config.precision):
                image, objective = self._decoder_objective(part)
            (objective.total / part.num_parts).backward(inputs=self.decoder_parameters)
            with _precision(part.image.device, self.config.precision):
                # One pass for both: an image's logits do not depend on the others.
                pair = torch.cat([part.image, image.detach().to(part.image)])
                loss = hinge_discriminator(*self.state.discriminator(pair).chunk(2))
            (loss / part.num_parts).backward()
            terms = {**objective.terms, "discriminator": loss}
            _add(sums, Objective(objective.total, terms), part.num_parts)
        _average_gradients(
            [*self.decoder_parameters, *self.discriminator_parameters], self.context.world_size
        )
        return sums

    def _decoder_objective(self, part: "_Part") -> tuple[Tensor, Objective]:
        with torch.no_grad():
            z = self.state.model.encoder(part.image, part.masked).perturb(part.noise)
        image = self.state.model.decoder(z)
        objective = decoder_objective(
            image,
            part.image,
            self.state.discriminator(image.to(part.image)),
            weights=self.config.loss,
            gan_weight=self.phase.gan_weight,
            perceptual=self.targets.perceptual,
        )
        return image, objective

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient of either network."""
        limit = self.phase.optim.clip_norm
        return {
            "gradient_norm": nn.utils.clip_grad_norm_(self.decoder_parameters, limit),
            "discriminator_norm": nn.utils.clip_grad_norm_(self.discriminator_parameters, limit),
        }

    def update(self) -> None:
        """Take a step of AdamW with either network."""
        step = self.state.step - self.config.steps
        for optimizer in self.state.optimizers:
            _step(optimizer, self.phase.optim, step, self.phase.steps)
        self.state.average(self.phase.optim.ema_decay)

    def skip(self) -> None:
        """Drop the gradients."""
        for optimizer in self.state.optimizers:
            optimizer.zero_grad()


class _Part(NamedTuple):
    """A micro-batch on the device, and how many there are."""

    image: Tensor
    label: Tensor
    masked: Tensor
    noise: Tensor
    indices: Tensor
    num_parts: int
    is_last: bool


def _micro_batches(
    context: Context, config: TrainConfig, batch: Batch, draws: Draws
) -> Iterator[_Part]:
    size = config.micro_batch or len(batch.image)
    if len(batch.image) % size:
        raise ConfigError(
            f"Expected micro_batch to divide a worker's {len(batch.image)} images; got {size}. "
            "Choose a divisor."
        )
    count = len(batch.image) // size
    for number in range(count):
        rows = slice(number * size, (number + 1) * size)
        image, label, masked, noise = (
            each[rows].to(context.device)
            for each in (batch.image, batch.label, draws.masked, draws.noise)
        )
        yield _Part(image, label, masked, noise, batch.indices[rows], count, number == count - 1)


def _add(sums: dict[str, Tensor], objective: Objective, count: int) -> None:
    for name, value in {**objective.terms, "loss": objective.total}.items():
        sums[name] = sums.get(name, torch.zeros(())) + value.detach() / count


def _step(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step, steps)
    optimizer.step()
    optimizer.zero_grad()


def _average_gradients(parameters: Iterable[nn.Parameter], world_size: int) -> None:
    """Average over the workers. Two networks in turns are more than DDP's wrapper follows."""
    if world_size == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size


@contextlib.contextmanager
def _precision(device: torch.device, precision: str) -> Iterator[None]:
    """Run matrix products in bf16 if asked to, or on `auto` if the device is fast at it."""
    if precision == "auto":
        fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        precision = "bf16" if fast else "fp32"
    if precision == "fp32":
        yield
        return
    with contextlib.ExitStack() as stack:
        if device.type == "cpu":
            # The fused kernel's bf16 backward is slow on CPUs: benchmarks/cpu_training_step.md.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield
