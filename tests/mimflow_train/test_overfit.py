"""Eight pictures learned by heart: encoder and decoder work together and learn fast."""

import pytest
import torch
import torch.nn.functional as F

from mim_encoder import EncoderConfig, MaskedEncoder, MaskRatio, random_mask
from mimflow_train.data.glyphs import draw, split_glyphs
from mimflow_train.data.images import as_tensor, to_unit
from vit_decoder import DecoderConfig, PixelDecoder

SIZES = {"patch_size": 8, "width": 64, "depth": 2, "num_heads": 2, "num_latents": 8}


@pytest.fixture(scope="module")
def image():
    glyphs, _ = split_glyphs()
    return to_unit(torch.stack([as_tensor(draw(each, 32)) for each in glyphs[:2400:300]]))


@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_error_falls_five_times_in_120_steps(hidden, image):
    torch.manual_seed(0)
    encoder = MaskedEncoder(EncoderConfig.preset("tiny", latent_dim=8, **SIZES))
    decoder = PixelDecoder(DecoderConfig.preset("tiny", latent_dim=8, **SIZES))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(120):
        masked = random_mask(8, 16, MaskRatio(low=hidden, high=hidden), generator=generator)
        z = encoder(image, masked).sample(generator=generator)
        loss = F.mse_loss(decoder(z), image)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(loss.item())
    assert sum(errors[-10:]) / 10 < errors[0] / 5
