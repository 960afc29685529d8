"""Eight pictures learned by heart: encoder and decoder work together and learn fast."""

import pytest
import torch
import torch.nn.functional as F

from mim_encoder import EncoderConfig, MaskedEncoder, MaskRatio, random_mask
from mimflow_train.data.emoji import emoji_images
from mimflow_train.data.images import to_unit
from vit_decoder import DecoderConfig, PixelDecoder

SIZES = {"patch_size": 8, "width": 64, "depth": 1, "num_heads": 2, "num_latents": 8}


@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_error_falls_five_times_in_120_steps(hidden):
    torch.manual_seed(0)
    encoder = MaskedEncoder(EncoderConfig.preset("tiny", latent_dim=8, **SIZES))
    decoder = PixelDecoder(DecoderConfig.preset("tiny", latent_dim=8, **SIZES))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=4e-3)
    image = to_unit(emoji_images(32).train.stack(range(0, 2400, 300)))
    draw = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(120):
        masked = random_mask(8, 16, MaskRatio(low=hidden, high=hidden), generator=draw)
        z = encoder(image, masked).sample(generator=draw)
        loss = F.mse_loss(decoder(z), image)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(loss.item())
    assert sum(errors[-10:]) / 10 < errors[0] / 5
