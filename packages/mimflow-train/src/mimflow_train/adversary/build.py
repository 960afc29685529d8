"""Builds the discriminator that a run asks for."""

import torch
from torch import nn

from mimflow_train.adversary.dino import DinoDiscriminator
from mimflow_train.adversary.discriminator import PatchDiscriminator
from mimflow_train.config import DiscriminatorConfig
from mimflow_train.frozen.dino import DINO_FILE, DinoTokens
from mimflow_train.frozen.weights import find_weights

__all__ = ["build_discriminator"]


def build_discriminator(config: DiscriminatorConfig, device: torch.device) -> nn.Module:
    """Return a discriminator with fresh weights, drawn from torch's global generator.

    Raises:
        WeightsError: If it looks through a frozen network whose weights are not on this machine.
    """
    if config.kind == "dino":
        return DinoDiscriminator(DinoTokens(find_weights(DINO_FILE), device)).to(device)
    return PatchDiscriminator(config).to(device)
