import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mim_encoder import EncoderConfig, MaskedEncoder, MaskRatio, random_mask
from vit_decoder import (
    DecoderConfig,
    FeatureDecoder,
    FeatureDecoderConfig,
    PixelDecoder,
)


def fvcore_macs(config):
    """Closed form of fvcore's count: encoder and decoder, 5 per LayerNorm element."""
    width, depth, patches, latents = config.width, config.depth, config.num_patches, 128
    tokens = 1 + patches + latents
    blocks = 2 * depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
    ends = 2 * patches * width * 3 * config.patch_size**2 + 2 * latents * width * config.latent_dim
    return blocks + ends, 10 * tokens * width * (2 * depth + 1)


def test_paper_scale_has_the_papers_parameters_and_macs():
    config = EncoderConfig.preset("B")
    with torch.device("meta"):
        encoder, decoder = MaskedEncoder(config), PixelDecoder(DecoderConfig.preset("B"))
        image = torch.zeros(1, 3, 256, 256)
        masked = torch.zeros(1, 256, dtype=torch.bool)
    parameters = sum(p.numel() for model in (encoder, decoder) for p in model.parameters())
    assert 171.7e6 <= parameters <= 172.2e6
    with FlopCounterMode(display=False) as counter:
        decoder(encoder(image, masked).mean)
    matmuls, norms = fvcore_macs(config)
    assert counter.get_total_flops() == 2 * matmuls
    assert round((matmuls + norms) / 1e9, 2) == 71.25


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 1.8), ("S", 21.3), ("B", 85.1), ("L", 302.3), ("XL", 446.4)],
)
def test_presets_have_their_published_block_parameters_and_fit_together(name, millions):
    with torch.device("meta"):
        encoder = MaskedEncoder(EncoderConfig.preset(name))
        decoder = PixelDecoder(DecoderConfig.preset(name))
        size = encoder.config.image_size
        image = torch.zeros(2, 3, size, size)
        masked = torch.zeros(2, encoder.config.num_patches, dtype=torch.bool)
    assert decoder(encoder(image, masked).mean).shape == image.shape
    for trunk in (encoder.trunk, decoder.to_tokens.trunk):
        assert round(sum(p.numel() for p in trunk.blocks.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    "variant",
    [
        {"hidden_patches": "dropped"},
        {"bottleneck": "simmim", "num_latents": 64},
        {"bottleneck": "mae", "hidden_patches": "dropped", "num_latents": 32},
    ],
    ids=["dropped", "simmim", "mae"],
)
def test_decoders_paint_from_the_latents_of_every_bottleneck(variant):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = MaskedEncoder(EncoderConfig.preset("tiny", depth=2, **variant))
    latents = {"num_latents": encoder.config.num_latents, "latent_dim": 16}
    decoder = PixelDecoder(DecoderConfig.preset("tiny", depth=2, **latents))
    teacher = FeatureDecoder(FeatureDecoderConfig(grid=(8, 8), feature_dim=5, depth=1, **latents))
    image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    masked = random_mask(2, 64, MaskRatio(low=0.5, high=0.5), generator=generator)
    z = encoder(image, masked).sample(generator=generator)
    (functional.mse_loss(decoder(z), image) + teacher(z).square().mean()).backward()
    for model in (encoder, decoder, teacher):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_pixel_and_feature_losses_reach_every_parameter(kind):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = MaskedEncoder(EncoderConfig.preset("tiny", depth=2))
    pixels = PixelDecoder(DecoderConfig.preset("tiny", depth=2))
    config = FeatureDecoderConfig(
        grid=(8, 8), feature_dim=5, num_latents=16, latent_dim=16, kind=kind, depth=1
    )
    features = FeatureDecoder(config)
    image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    masked = random_mask(2, 64, MaskRatio(), generator=generator)
    z = encoder(image, masked).sample(generator=generator)
    (functional.mse_loss(pixels(z), image) + features(z).square().mean()).backward()
    for model in (encoder, pixels, features):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def discs(count, size):
    """Bright discs of different places, sizes and colours on dark grounds."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.rand(count, 2, 1, 1, generator=generator) * size
    radius = size * (0.2 + 0.3 * torch.rand(count, 1, 1, generator=generator))
    inside = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2
    colour = torch.rand(2, count, 3, 1, 1, generator=generator)
    return torch.where(inside[:, None], colour[0], -colour[1])


def test_eight_images_are_learned_from_half_hidden_input():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    shape = {"image_size": 16, "width": 64, "depth": 2, "num_heads": 2}
    encoder = MaskedEncoder(EncoderConfig.preset("tiny", **shape))
    decoder = PixelDecoder(DecoderConfig.preset("tiny", **shape))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    image, errors = discs(8, 16), []
    for _ in range(200):
        masked = random_mask(8, 16, MaskRatio(), generator=generator)
        error = functional.mse_loss(
            decoder(encoder(image, masked).sample(generator=generator)), image
        )
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-10:]) / 10 < errors[0] / 5
