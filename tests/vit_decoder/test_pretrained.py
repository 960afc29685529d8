import pytest
import torch

from vit_decoder import DecoderConfig, FeatureDecoder, FeatureDecoderConfig, PixelDecoder

SHAPE = {"num_latents": 2, "latent_dim": 3, "width": 16, "depth": 1, "num_heads": 2}
PIXELS = {"image_size": 8, "patch_size": 4}
FEATURES = {"grid": (2, 4), "feature_dim": 5}


@pytest.mark.parametrize("options", [{}, {"head": "refined", "drop_path": 0.1}], ids=str)
def test_pixel_decoder_survives_a_folder(options, tmp_path):
    decoder = PixelDecoder(DecoderConfig(**SHAPE, **PIXELS, **options))
    torch.nn.init.normal_(decoder.last_layer)
    decoder.save_pretrained(tmp_path)
    loaded = PixelDecoder.from_pretrained(tmp_path)
    z = torch.randn(4, 2, 3)
    assert loaded.config == decoder.config
    assert torch.equal(loaded(z, size=(8, 12)), decoder(z, size=(8, 12)))


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_feature_decoder_survives_a_folder(kind, tmp_path):
    decoder = FeatureDecoder(FeatureDecoderConfig(**SHAPE, **FEATURES, kind=kind))
    decoder.save_pretrained(tmp_path)
    loaded = FeatureDecoder.from_pretrained(tmp_path)
    z = torch.randn(4, 2, 3)
    assert loaded.config == decoder.config  # the grid, a pair, is a list in JSON
    assert torch.equal(loaded(z), decoder(z))


def test_network_of_another_kind_is_refused(tmp_path):
    PixelDecoder(DecoderConfig(**SHAPE, **PIXELS)).save_pretrained(tmp_path)
    message = r"fields of FeatureDecoderConfig in .*config\.json; got unknown field 'image_size'"
    with pytest.raises(ValueError, match=message):
        FeatureDecoder.from_pretrained(tmp_path)
