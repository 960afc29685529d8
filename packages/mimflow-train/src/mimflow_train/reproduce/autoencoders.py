"""Both autoencoders of Table 2, counted on the meta device by one counter."""

import dataclasses

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mimflow_train.config import ConvolutionalConfig, ModelConfig
from mimflow_train.device.costs import PartCost
from mimflow_train.model import MIMFlow

__all__ = ["sd_vae_cost", "vit_cost"]


def sd_vae_cost(config: ModelConfig) -> PartCost:
    """Count SD-VAE without weights, for one image.

    Args:
        config: Networks of whose sizes only the image's counts.

    Raises:
        ConfigError: If diffusers is not installed.
    """
    model = dataclasses.replace(config, features={}).with_convolutions(ConvolutionalConfig())
    return _cost("SD-VAE", model)


def vit_cost(config: ModelConfig) -> PartCost:
    """Count encoder and pixel decoder without weights, for one whole image.

    Args:
        config: Sizes of the two.
    """
    return _cost("ViT", config)


def _cost(name: str, config: ModelConfig) -> PartCost:
    size = config.encoder.image_size
    with torch.device("meta"):
        model = MIMFlow(config)
        parts = nn.ModuleList([model.encoder, model.decoder])
        with FlopCounterMode(display=False) as counter:
            model.decoder(model.encoder(torch.empty(1, 3, size, size)).mean)
    parameters = sum(each.numel() for each in parts.parameters())
    return PartCost(name, parameters, counter.get_total_flops() / 2e9)
