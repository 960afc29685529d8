import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.replicas import replica_of
from torch.utils.flop_counter import FlopCounterMode

from vit_decoder import FeatureDecoder, FeatureDecoderConfig

KINDS = ["transformer", "mlp"]


def build(kind="transformer", **overrides):
    torch.manual_seed(0)
    shape = {"grid": (2, 6), "feature_dim": 7, "num_latents": 4, "latent_dim": 3}
    sizes = {"width": 24, "depth": 2, "num_heads": 2, "hidden_width": 11}
    return FeatureDecoder(FeatureDecoderConfig(kind=kind, **{**shape, **sizes, **overrides}))


def latents(batch, k=4, d=3):
    return torch.randn(batch, k, d, generator=torch.Generator().manual_seed(1))


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    feature_dim=st.integers(1, 9),
    latent_dim=st.integers(1, 5),
)
def test_shapes_follow_the_config(kind, rows, columns, feature_dim, latent_dim):
    decoder = build(
        kind, grid=(rows, columns), feature_dim=feature_dim, num_latents=rows, latent_dim=latent_dim
    )
    z = latents(2, k=rows, d=latent_dim)
    assert decoder(z).shape == (2, rows * columns, feature_dim)


@pytest.mark.parametrize("kind", KINDS)
def test_no_latents_have_no_features(kind):
    assert build(kind)(latents(0)).shape == (0, 12, 7)


def test_transformer_needs_no_common_divisor_of_places_and_latents():
    assert build(grid=(3, 5))(latents(1)).shape == (1, 15, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_finite_gradient(kind):
    decoder = build(kind)
    decoder(latents(3)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_equals_a_row_of_a_batch(kind):
    decoder, z = build(kind).double(), latents(4).double()
    together = decoder(z)
    for row in range(4):
        torch.testing.assert_close(decoder(z[row : row + 1])[0], together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_replica_of_data_parallel_predicts_what_the_decoder_does(kind):
    decoder = build(kind)
    assert torch.equal(replica_of(decoder)(latents(2)), decoder(latents(2)))


def test_mlp_answers_each_place_from_its_own_latent_only():
    decoder, z = build("mlp"), latents(1)
    moved = z.clone()
    moved[:, 2] += 1
    changed = (decoder(moved) != decoder(z)).any(-1)[0]
    assert changed.tolist() == [False] * 6 + [True] * 3 + [False] * 3
    features = decoder(z)[0]
    assert torch.equal(features[6], features[8])
    assert not torch.equal(features[5], features[6])


def test_transformer_tells_places_apart():
    features = build().double()(latents(1).double())[0]
    assert torch.pdist(features).min() > 1e-4 * features.std()


def test_transformer_has_the_released_size_at_paper_scale():
    with torch.device("meta"):
        decoder = FeatureDecoder(FeatureDecoderConfig())
    trunk = sum(p.numel() for p in decoder.decoder.to_tokens.trunk.blocks.parameters())
    # qkv without key bias, projection, two MLP layers, two LayerNorms.
    assert trunk == 3 * (12 * 192**2 + (2 + 1 + 4 + 1 + 4) * 192)


def test_released_transformer_is_three_blocks_of_width_192_with_three_heads():
    config = FeatureDecoderConfig()
    assert (config.width, config.depth, config.num_heads) == (192, 3, 3)
    with torch.device("meta"):
        decoder, z = FeatureDecoder(config), torch.zeros(1, 128, 64)
    with FlopCounterMode(display=False) as counter:
        assert decoder(z).shape == (1, 256, 768)
    blocks = 3 * (12 * 384 * 192**2 + 2 * 384**2 * 192)  # no class token
    assert counter.get_total_flops() == 2 * (blocks + 128 * 64 * 192 + 256 * 192 * 768)


def test_mlp_has_the_alignment_heads_layers_at_paper_scale():
    with torch.device("meta"):
        decoder = FeatureDecoder(FeatureDecoderConfig(kind="mlp"))
        assert decoder(torch.zeros(1, 128, 64)).shape == (1, 256, 768)
    parameters = sum(p.numel() for p in decoder.parameters())
    assert parameters == 1_903_360


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_another_shape_are_refused(kind):
    with pytest.raises(ValueError, match=r"Expected z of shape \(b, 4, 3\); got \(1, 8, 3\)"):
        build(kind)(latents(1, k=8))
