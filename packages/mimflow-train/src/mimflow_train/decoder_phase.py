"""One step of the decoder phase: decoder against discriminator (Eq. 8).

Latents are those of masked images, as before; encoder and flow stay as they are. Decoder and
discriminator have an optimiser each. All that is learned comes from sums over the global batch, so
neither workers nor micro-batches change it. DDP's wrapper does not support two networks that learn
in turns, so gradients are averaged here.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimflow_train.adversary.augment import augmented
from mimflow_train.adversary.discriminator import (
    hinge_discriminator,
    hinge_generator,
    lecam_penalty,
)
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import to_bytes, to_unit
from mimflow_train.device.memory import fit_micro_batch, room_for_moments, set_computation
from mimflow_train.draws import Draws
from mimflow_train.engine.all_reduce import average_gradients, mean_over_workers
from mimflow_train.engine.context import Context
from mimflow_train.micro_batches import Batch, MicroBatch, add_terms, micro_batches, precision
from mimflow_train.objective import Objective, reconstruction_objective
from mimflow_train.state import DecoderState, take_step
from mimflow_train.teachers import Targets

__all__ = ["DecoderPhase", "adaptive_weight"]

_FOR_DECODER, _REAL, _FAKE = range(3)  # each view of a batch is augmented differently


class DecoderPhase:
    """The decoder alone learns, and the discriminator against it.

    Args:
        state: What is trained.
        context: This worker among its peers.
        config: The run.
        targets: The frozen networks.
    """

    def __init__(
        self, state: DecoderState, context: Context, config: TrainConfig, targets: Targets
    ) -> None:
        self.state, self.context, self.config, self.targets = state, context, config, targets
        self.phase = config.decoder_phase
        self.decoder = list(state.model.decoder.parameters())
        self.discriminator = list(state.discriminator.parameters())
        self.logits: dict[str, Tensor] = {}
        self.parts: list[MicroBatch] = []  # wait for the updated decoder where fakes are fresh
        self.config = fit_micro_batch(config, context, self.try_out, state.model)
        set_computation(state.model, config, context.device)

    def try_out(self, batch: Batch, draws: Draws) -> None:
        """Run the passes of a step, of which nothing stays."""
        before = copy.deepcopy(self.state.discriminator.state_dict())  # spectral norms would move
        try:
            with room_for_moments(*self.state.optimizers):
                self._passes(batch, draws)
                for part in self.parts:
                    self._learn_to_judge(part, self._fresh_fakes(part), {})
        finally:
            self.state.discriminator.load_state_dict(before)
            self.skip()

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Add up the gradients of the batch, one micro-batch at a time."""
        terms, adversarial = self._passes(batch, draws)
        if adversarial:
            self._add_adversarial(adversarial, terms)
        average_gradients(self.decoder, self.context.world_size)
        return terms

    def _passes(self, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Add up this worker's gradients; adaptive adversarial ones apart, in the second result."""
        terms: dict[str, Tensor] = {}
        adversarial: list[Tensor] = []
        self.logits = {}
        self.parts = list(micro_batches(self.context.device, self.config, batch, draws))
        fakes = []
        for part in self.parts:
            fake, gradients = self._learn_to_decode(part, terms)
            fakes.append(fake)
            adversarial = list(map(torch.add, adversarial, gradients)) or gradients
            del gradients  # or they are held while the next part and the discriminator learn
        if not self.phase.fresh_fakes:  # after all parts: the first one moves spectral norms
            for part, fake in zip(self.parts, fakes, strict=True):
                self._learn_to_judge(part, fake, terms)
            self.parts = []
        return terms, adversarial

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient of either network; with fresh fakes the decoder's alone."""
        norms = {"gradient_norm": self._clip(self.decoder)}
        return norms if self.parts else norms | self._clip_discriminator()

    def update(self) -> dict[str, Tensor]:
        """Take a step of AdamW with the decoder, then with the discriminator."""
        decoder, discriminator = self.state.optimizers
        step = self.state.step - self.config.steps
        values: dict[str, Tensor] = {}
        take_step(decoder, self.phase.optim, step, self.phase.steps)
        self.state.average(self.phase.optim.ema_decay)
        if self.parts:
            for part in self.parts:
                self._learn_to_judge(part, self._fresh_fakes(part), values)
            values |= self._clip_discriminator()
            if not values["discriminator_norm"].isfinite():  # of the decoder's step nothing is lost
                discriminator.zero_grad()
                return values
        take_step(discriminator, self.phase.optim, step, self.phase.steps)
        if self.phase.lecam_weight:
            means = [self.logits["real"], self.logits["fake"]]
            self.state.lecam.update(*mean_over_workers(means, self.context.world_size))
        return values

    def skip(self) -> None:
        """Drop the gradients."""
        for optimizer in self.state.optimizers:
            optimizer.zero_grad()

    def latents(self) -> dict[str, float]:
        """Return nothing: the latents stay as they were."""
        return {}

    def _learn_to_decode(
        self, part: MicroBatch, terms: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Add the decoder's gradients; return its images, and adversarial gradients kept apart."""
        with precision(part.image.device, self.config.precision):
            image = self._decode(part, part.draws.depth)
            objective = reconstruction_objective(
                image,
                part.image,
                part.draws.masked,
                weights=self.config.loss,
                perceptual=self.targets.distance_to(part.image),
            )
            self.state.discriminator.eval()
            seen = self._augmented(image.to(part.image), part, _FOR_DECODER)
            gan = hinge_generator(self.state.discriminator(seen))
        total, adversarial = objective.total, []
        if self.phase.adaptive:
            share = gan / part.num_parts
            adversarial = [*torch.autograd.grad(share, self.decoder, retain_graph=True)]
        else:
            total = total + self.phase.gan_weight * gan
        (total / part.num_parts).backward(inputs=self.decoder)
        add_terms(terms, Objective(total, {**objective.terms, "gan": gan}), part.num_parts)
        return image.detach().to(part.image), adversarial

    def _learn_to_judge(self, part: MicroBatch, fake: Tensor, terms: dict[str, Tensor]) -> None:
        """Add the discriminator's gradients. One pass: logits are each image's own."""
        with precision(part.image.device, self.config.precision):
            # Spectral norms move once a step, and only here.
            self.state.discriminator.train(mode=part.is_first)
            pair = (self._augmented(part.image, part, _REAL), self._augmented(fake, part, _FAKE))
            real, fake = self.state.discriminator(torch.cat(pair)).chunk(2)
            loss = hinge_discriminator(real, fake)
            if self.phase.lecam_weight:
                penalty = lecam_penalty(real, fake, self.state.lecam)
                loss = loss + self.phase.lecam_weight * penalty
        (loss / part.num_parts).backward(inputs=self.discriminator)
        for name, value in {"real": real, "fake": fake}.items():
            mean = value.detach().float().mean() / part.num_parts
            self.logits[name] = self.logits.get(name, 0) + mean
        mean = loss.detach() / part.num_parts
        terms["discriminator"] = terms.get("discriminator", torch.zeros(())) + mean

    def _decode(self, part: MicroBatch, depth: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            posterior = self.state.model.encoder(part.image, part.draws.masked)
            z = posterior.perturb(part.draws.noise)
        image: Tensor = self.state.model.decoder(z, uniform=depth)
        return image

    @torch.no_grad()
    def _fresh_fakes(self, part: MicroBatch) -> Tensor:
        """Return images as they will be saved: every branch taken, 8 bit."""
        with precision(part.image.device, self.config.precision):
            image = self._decode(part)
        return to_unit(to_bytes(image)).to(part.image)

    def _augmented(self, image: Tensor, part: MicroBatch, view: int) -> Tensor:
        return augmented(image, part.draws.augment[:, view]) if self.phase.augment else image

    def _add_adversarial(self, gradients: Sequence[Tensor], terms: dict[str, Tensor]) -> None:
        """Weigh the adversarial gradients by the last layer's, and add them to the others."""
        last_layer = self.state.model.decoder.last_layer
        number = next(i for i, each in enumerate(self.decoder) if each is last_layer)
        both = [_gradient(last_layer), gradients[number]]
        rest, own = mean_over_workers(both, self.context.world_size)
        weight = self.phase.gan_weight * adaptive_weight(rest, own)
        for parameter, gradient in zip(self.decoder, gradients, strict=True):
            _gradient(parameter).add_(weight * gradient)
        terms["loss"] = terms["loss"] + weight * terms["gan"]
        terms["gan_weight"] = weight

    def _clip_discriminator(self) -> dict[str, Tensor]:
        average_gradients(self.discriminator, self.context.world_size)
        return {"discriminator_norm": self._clip(self.discriminator)}

    def _clip(self, parameters: list[nn.Parameter]) -> Tensor:
        norm: Tensor = nn.utils.clip_grad_norm_(parameters, self.phase.optim.clip_norm)
        return norm


def adaptive_weight(rest: Tensor, adversarial: Tensor) -> Tensor:
    """Return how much stronger the other terms pull at the last layer, at most 10^4.

    Args:
        rest: Gradient of all terms but the adversarial one.
        adversarial: Gradient of the adversarial term.

    Example:
        >>> adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])).round()
        tensor(2.)
    """
    ratio: Tensor = rest.norm() / (adversarial.norm() + 1e-6)
    return ratio.clamp(max=1e4)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
