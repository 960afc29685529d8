"""What training changes: weights, their moving average, and the optimiser's moments."""

import copy
import math

import torch
from torch import Tensor, nn

from mimflow_train.config import OptimConfig, TrainConfig
from mimflow_train.draws import generator
from mimflow_train.model import MIMFlow

__all__ = ["TrainState", "learning_rate"]


class TrainState:
    """Model, average and optimiser at one step.

    Args:
        config: The run.
        device: Where the tensors live.

    Attributes:
        model: The weights that are trained.
        ema: Their moving average in float32; what samples and scores are made with.
        optimizer: AdamW over the model's parameters.
        step: Optimiser steps done.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, (), generator=generator(config.seed, "weights")))
            torch.manual_seed(seed)
            self.model = MIMFlow(config.trained_model).to(device)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        self.optimizer = _adamw(self.model, config.optim)
        self.step = 0

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the average towards the weights: ``ema <- d ema + (1 - d) weights``.

        Args:
            decay: Decay of a long run; at step ``t`` it is at most ``(1 + t) / (10 + t)``.
        """
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return everything a checkpoint holds, as files of named tensors."""
        moments = {
            f"{key}.{name}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": moments,
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], step: int) -> None:
        """Take over a checkpoint's tensors; every name and shape must match."""
        self.model.load_state_dict(tensors["model"])
        self.ema.load_state_dict(tensors["ema"])
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for full_name, value in tensors["optimizer"].items():
            key, name = full_name.split(".", 1)
            parameter = parameters[name]
            # AdamW keeps its step counter on the CPU unless it is fused on a GPU.
            target = value.to(parameter.device) if key != "step" or parameter.is_cuda else value
            self.optimizer.state[parameter][key] = target
        self.step = step


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


def _adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
