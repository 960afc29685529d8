"""What a run costs, against counts of the fact sheet and against what autograd really keeps."""

import dataclasses

import pytest
import torch

from mimflow_train.config import DecoderPhaseConfig, LossConfig
from mimflow_train.costs import run_cost
from mimflow_train.model import MIMFlow
from mimflow_train.recipes import IMAGENET_CLASSES, RECIPES, paper


@pytest.mark.parametrize("scale", ["S", "B", "L", "XL", "XXL"])
def test_every_scale_can_be_built_and_wires_up(scale):
    config = RECIPES[scale](("a", "b"), "folder")
    with torch.device("meta"):
        model = MIMFlow(config.model)
        z = model.encoder(torch.empty(1, 3, 256, 256)).mean
        assert model.decoder(z).shape == (1, 3, 256, 256)
        assert model.flow(z).u.shape == (1, 128, 64)
        assert {name: decode(z).shape for name, decode in model.feature_decoders.items()} == {
            "dinov2": (1, 256, 768),
            "clip": (1, 256, 768),
        }


def test_scale_l_is_the_paper_s():
    config = paper("L", IMAGENET_CLASSES, "folder")
    assert (config.global_batch, config.steps, config.decoder_phase.steps) == (256, 450450, 10010)
    assert (config.optim.lr, config.optim.betas, config.optim.ema_decay) == (
        *(1e-4, (0.9, 0.95), 0.9999),
    )
    assert config.loss == LossConfig(perceptual_network="lpips")
    assert config.model.encoder.sigma == 0.3
    assert config.decoder_phase.gan_weight == 0.05


def test_cost_of_scale_l_is_that_of_the_fact_sheet():
    cost = run_cost(paper("L", IMAGENET_CLASSES, "folder"))
    assert cost.training_flops == pytest.approx(1.04e12, rel=0.03)
    parts = {part.name: part for part in cost.trained}
    assert parts["encoder"].gmac + parts["pixel decoder"].gmac == pytest.approx(71.178, abs=1e-3)
    assert cost.discriminator.parameters == 2_765_633
    # The paper measured 37.6 GB on an A100 with 32 images.
    assert cost.memory(32) / 1e9 == pytest.approx(37.6, rel=0.1)


def test_memory_grows_with_the_network_and_says_how_many_images_fit(config):
    cost = run_cost(config)
    larger = dataclasses.replace(
        config, model=dataclasses.replace(config.model, decoder=deeper(config.model.decoder))
    )
    assert run_cost(larger).activation_bytes > 1.2 * cost.activation_bytes
    available = cost.memory(7) + cost.activation_bytes // 2
    assert cost.largest_micro_batch(available) == 7
    assert cost.largest_micro_batch(cost.static_bytes - 1) == 0


def deeper(decoder):
    return dataclasses.replace(decoder, depth=3)


def test_discriminator_that_is_not_built_costs_nothing(config):
    assert run_cost(config).discriminator is None
    rae = dataclasses.replace(config, decoder_phase=DecoderPhaseConfig.preset("rae"))
    cost = run_cost(rae)
    assert cost.discriminator is None
    assert cost.frozen[-1].name == "DINO-S/8@224"
