"""What training changes: weights, their moving average, and the optimiser's moments."""

import copy
import gc
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mimflow_train.adversary.build import build_discriminator
from mimflow_train.adversary.discriminator import LeCam
from mimflow_train.config import OptimConfig, TrainConfig
from mimflow_train.draws import generator
from mimflow_train.engine.sharding import is_sharded, placed_like, shard, whole
from mimflow_train.model import MIMFlow, transformer_layers

__all__ = ["DecoderState", "State", "TrainState", "learning_rate", "take_step"]


class TrainState:
    """Model, average and optimiser in the joint phase.

    Args:
        config: The run.
        device: Where the tensors live.

    Attributes:
        model: The weights that are trained.
        ema: Their moving average in float32; what samples and scores are made with.
        optimizer: AdamW over the model's parameters.
        step: Optimiser steps done.
        draw_stream: Step for which the run was last rolled back, 0 for none; masks and noise
            depend on it.
        skips: Newest steps in a row without a finite gradient.
    """

    phase = "joint"

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, (), generator=generator(config.seed, "weights")))
            torch.manual_seed(seed)
            self.model = MIMFlow(config.trained_model).to(device)
        if config.model.is_autoencoder_fixed:
            for part in (self.model.encoder, self.model.decoder):
                part.requires_grad_(requires_grad=False)
        self.ema = _frozen_copy(self.model)
        self.optimizer = _adamw(self.model, config.optim)
        self.step, self.draw_stream, self.skips = 0, 0, 0

    @property
    def end(self) -> int:
        """Step at which the phase is over."""
        return self.config.steps

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def chosen(self) -> MIMFlow:
        """The weights that samples and scores are made with, as ``config.weights`` says.

        Where they are sharded, all workers ask for them together and get a copy on the host.
        """
        if self.is_sharded:
            return _gathered(self.ema if self.config.weights == "ema" else self.model)
        return self.ema if self.config.weights == "ema" else _frozen_copy(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether this worker has only parts of the tensors."""
        return is_sharded(self.model)

    def shard(self, device: torch.device) -> None:
        """Leave each worker its part of all tensors; all of them call this with the same state.

        Args:
            device: Where this worker computes; the state may be on the host until now.
        """
        moments = _moments(self.model, self.optimizer)
        del self.optimizer  # it holds on to whole weights, which would all come to the device
        for model in (self.model, self.ema):
            shard(model, device)
        self.optimizer = _adamw(self.model, self.config.optim)
        _load_moments(self.model, self.optimizer, moments)

    def release(self) -> None:
        """Let go of all tensors, whoever still has the state: what comes next needs the memory."""
        del self.model, self.ema, self.optimizer
        gc.collect()  # a layer that is compiled or recomputed refers to itself

    def average(self, decay: float) -> None:
        """Move the average towards the weights: ``ema <- d ema + (1 - d) weights``.

        Args:
            decay: Decay of a long run; at step ``t`` it is at most ``(1 + t) / (10 + t)``.
        """
        _average(self.ema, self.model, decay, self.step)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return everything a checkpoint holds, as files of named tensors."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": _moments(self.model, self.optimizer),
        }

    def load(self, read: Callable[[str], dict[str, Tensor]], step: int) -> None:
        """Take over a checkpoint; every name and shape must match.

        Args:
            read: Returns the tensors of one of its files.
            step: Where it was saved.
        """
        self.model.load_state_dict(read("model"))
        self.ema.load_state_dict(read("ema"))
        _load_moments(self.model, self.optimizer, read("optimizer"))
        self.step = step


class DecoderState:
    """Model, average, discriminator and both optimisers in the decoder phase.

    Args:
        config: The run.
        device: Where the tensors live.

    Attributes:
        model: The networks; of these the decoder alone is trained.
        ema: The same with the decoder's moving average.
        discriminator: The decoder's adversary.
        lecam: Moving averages of the discriminator's logits.
        step: Optimiser steps done, those of the joint phase included.
        draw_stream: Step for which the run was last rolled back, 0 for none; masks and noise
            depend on it.
        skips: Newest steps in a row without a finite gradient.
    """

    phase = "decoder"
    is_sharded = False

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        joint = TrainState(config, device)
        self.model, self.ema = joint.model, joint.ema
        with torch.random.fork_rng(devices=[]):
            draw = generator(config.seed, "discriminator weights")
            torch.manual_seed(int(torch.randint(2**62, (), generator=draw)))
            self.discriminator = build_discriminator(config.decoder_phase.discriminator, device)
        self.lecam = LeCam().to(device)
        for part in (self.model.encoder, self.model.flow, self.model.feature_decoders):
            part.requires_grad_(requires_grad=False)
        self.model.decoder.requires_grad_(requires_grad=True)
        optim = config.decoder_phase.optim
        self.optimizers = (_adamw(self.model.decoder, optim), _adamw(self.discriminator, optim))
        self.step, self.draw_stream, self.skips = config.steps, 0, 0

    @classmethod
    def after(cls, joint: TrainState, device: torch.device) -> "DecoderState":
        """Return the start of the decoder phase: the weights that the joint phase is judged by.

        Args:
            joint: The joint phase at its end; sharded, it is left by all workers together.
            device: Where this worker computes.
        """
        chosen = joint.chosen.state_dict()
        state = cls(joint.config, device)
        for model in (state.model, state.ema):
            model.load_state_dict(chosen)
        state.draw_stream = joint.draw_stream
        return state

    @property
    def end(self) -> int:
        """Step at which the phase is over."""
        return self.config.steps + self.config.decoder_phase.steps

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    @property
    def chosen(self) -> MIMFlow:
        """The weights that samples and scores are made with, as ``config.weights`` says."""
        return self.ema if self.config.weights == "ema" else _frozen_copy(self.model)

    def average(self, decay: float) -> None:
        """Move the decoder's average towards its weights.

        Args:
            decay: As for :meth:`TrainState.average`, steps counted from the start of the phase.
        """
        _average(self.ema.decoder, self.model.decoder, decay, self.step - self.config.steps)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return everything a checkpoint holds, as files of named tensors."""
        decoder, discriminator = self.optimizers
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": _moments(self.model.decoder, decoder),
            "lecam": self.lecam.state_dict(),
            "discriminator_optimizer": _moments(self.discriminator, discriminator),
        }

    def load(self, read: Callable[[str], dict[str, Tensor]], step: int) -> None:
        """Take over a checkpoint, as :meth:`TrainState.load`."""
        self.model.load_state_dict(read("model"))
        self.ema.load_state_dict(read("ema"))
        self.discriminator.load_state_dict(read("discriminator"))
        self.lecam.load_state_dict(read("lecam"))
        decoder, discriminator = self.optimizers
        _load_moments(self.model.decoder, decoder, read("optimizer"))
        _load_moments(self.discriminator, discriminator, read("discriminator_optimizer"))
        self.step = step


State = TrainState | DecoderState


def _gathered(model: MIMFlow) -> MIMFlow:
    host = torch.device("cpu")  # one weight at a time is whole on the device
    tensors = {name: whole(value).to(host) for name, value in model.state_dict().items()}
    return MIMFlow.frozen(model.config, tensors, host)


def _frozen_copy(model: MIMFlow) -> MIMFlow:
    frozen = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    for layer in transformer_layers(frozen):
        vars(layer).pop("forward", None)  # compiled or recomputed, for training alone
    return frozen


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def _moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _load_moments(
    module: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]
) -> None:
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for full_name, value in moments.items():
        key, name = full_name.split(".", 1)
        parameter = parameters[name]
        # The step counter is a number; AdamW keeps it on the CPU unless it is fused on a GPU.
        counter = value.to(parameter.device) if parameter.is_cuda else value
        optimizer.state[parameter][key] = (
            counter if key == "step" else placed_like(value, parameter)
        )


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then the schedule.

    Example:
        >>> config = OptimConfig(lr=1.0, warmup_steps=10, schedule="cosine")
        >>> [round(learning_rate(config, step, 110), 3) for step in (0, 9, 60, 110)]
        [0.1, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def take_step(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int) -> None:
    """Update the weights with the learning rate of this step, and drop the gradients.

    Args:
        optimizer: AdamW over the weights.
        config: Its schedule.
        step: Number of the step in its phase, from 0.
        steps: Steps of the phase.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step, steps)
    optimizer.step()
    optimizer.zero_grad()


def _adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
