import pytest
import torch
from einops import rearrange, repeat
from timm.models.eva import EvaBlock
from torch.utils.flop_counter import FlopCounterMode

from mim_encoder import EncoderConfig, MaskedEncoder, MaskRatio, mask_to_pixels, random_mask

TOKENS = {}
DROPPED = {"hidden_patches": "dropped"}
SIMMIM = {"bottleneck": "simmim", "num_latents": 9}
MAE = {"bottleneck": "mae", "hidden_patches": "dropped", "num_latents": 5}
VARIANTS = [TOKENS, DROPPED, SIMMIM, MAE]
NAMES = ["learnable-tokens", "learnable-tokens-dropped", "simmim", "mae"]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)


def build(variant):
    torch.manual_seed(0)
    shape = {"image_size": 12, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 2}
    latents = {"num_latents": 5, "latent_dim": 3, "layer_scale": None}
    encoder = MaskedEncoder(EncoderConfig(**{**shape, **latents, **variant})).double()
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def images(batch):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, 12, 12, generator=generator, dtype=torch.float64) * 2 - 1


def masks(batch, hidden=4):
    ratio = MaskRatio(low=hidden / 9, high=hidden / 9)
    return random_mask(batch, 9, ratio, generator=torch.Generator().manual_seed(2))


def attend_to_visible_patches(encoder, image, masked):
    """All tokens at their full length, hidden patches barred from attention."""
    batch, visible = len(image), rearrange(~masked, "b n -> b 1 1 n")
    parts = [encoder.class_token]
    if encoder.config.bottleneck == "learnable-tokens":
        parts.append(encoder.latents + encoder.latent_positions)
    prefix = repeat(torch.cat(parts), "t width -> b t width", b=batch)
    skip = prefix.shape[1]
    x = torch.cat([prefix, encoder.embed(image) + encoder.positions], dim=1)
    allowed = torch.cat([torch.ones(batch, 1, 1, skip, dtype=torch.bool), visible], dim=-1)
    ropes = encoder.trunk.rope.get_embed(list(encoder.config.grid))
    for block, rope in zip(encoder.trunk.blocks, ropes, strict=True):
        attend = allowed.expand(-1, -1, x.shape[1], -1)
        x = EvaBlock.forward(block, x, rope=rope, attn_mask=attend)
    x = encoder.trunk.norm(x)
    return x[:, 1:skip], x[:, skip:]


def test_dropped_patches_are_the_same_as_patches_that_nothing_attends_to():
    encoder, image, masked = build(DROPPED), images(3), masks(3)
    latents, _ = attend_to_visible_patches(encoder, image, masked)
    torch.testing.assert_close(encoder(image, masked).features, latents, rtol=0, atol=1e-9)


def test_mae_latents_are_the_visible_patches_in_raster_order():
    encoder, image, masked = build(MAE), images(3), masks(3)
    _, patches = attend_to_visible_patches(encoder, image, masked)
    expected = torch.stack([row[~hidden] for row, hidden in zip(patches, masked, strict=True)])
    torch.testing.assert_close(encoder(image, masked).features, expected, rtol=0, atol=1e-9)


def test_simmim_latents_are_all_patches_in_raster_order():
    encoder, image, masked = build(SIMMIM), images(2), masks(2)
    patches = torch.where(masked[..., None], encoder.mask_token, encoder.embed(image))
    prefix = encoder.class_token.expand(2, 1, -1)
    _, expected = encoder.trunk(prefix, patches + encoder.positions, (3, 3))
    torch.testing.assert_close(encoder(image, masked).features, expected, rtol=0, atol=1e-12)


def test_both_paths_agree_when_nothing_is_hidden():
    replacing, dropping, image = build(TOKENS), build(DROPPED), images(2)
    unfit = dropping.load_state_dict(replacing.state_dict(), strict=False)
    assert (unfit.missing_keys, unfit.unexpected_keys) == ([], ["mask_token"])
    expected, nothing = replacing(image).mean, torch.zeros(2, 9, dtype=torch.bool)
    torch.testing.assert_close(dropping(image).mean, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(dropping(image, nothing).mean, expected, rtol=0, atol=1e-12)


@every_variant
def test_shapes_follow_the_config(variant):
    encoder = build(variant)
    posterior = encoder(images(2), masks(2))
    num_latents = encoder.config.num_latents
    assert posterior.mean.shape == (2, num_latents, 3)
    assert posterior.features.shape == (2, num_latents, 24)


@every_variant
def test_no_images_have_no_latents(variant):
    encoder = build(variant)
    for masked in (None, torch.zeros(0, 9, dtype=torch.bool)):
        posterior = encoder(images(0), masked)
        assert posterior.mean.shape == (0, encoder.config.num_latents, 3)
        assert posterior.features.shape == (0, encoder.config.num_latents, 24)


@every_variant
def test_latents_ignore_hidden_pixels_and_heed_visible_ones(variant):
    encoder, image, masked = build(variant), images(3), masks(3)
    other = torch.rand_like(image)
    hidden = mask_to_pixels(masked, (3, 3), 4)
    expected = encoder(image, masked).mean
    same = encoder(torch.where(hidden, other, image), masked).mean
    changed = encoder(torch.where(hidden, image, other), masked).mean
    assert torch.equal(same, expected)
    assert ((changed - expected).abs().amax((1, 2)) > 1e-4).all()


@every_variant
def test_every_parameter_gets_a_finite_gradient(variant):
    encoder = build(variant)
    encoder(images(3), masks(3)).mean.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_variant
def test_batch_of_one_equals_a_row_of_a_batch_in_training_and_evaluation(variant):
    encoder, image, masked = build(variant), images(3), masks(3)
    together = encoder.train()(image, masked).mean
    for row in range(3):
        alone = encoder.eval()(image[row : row + 1], masked[row : row + 1]).mean
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [0, 1, 8, 9])
def test_any_equal_number_of_patches_can_be_dropped(hidden):
    posterior = build(DROPPED)(images(2), masks(2, hidden))
    assert posterior.mean.shape == (2, 5, 3)
    assert posterior.mean.isfinite().all()


@pytest.mark.parametrize("variant", [DROPPED, MAE], ids=["learnable-tokens-dropped", "mae"])
def test_images_with_different_numbers_of_dropped_patches_are_refused(variant):
    masked = torch.arange(9) < torch.tensor([[4], [6]])
    message = r"same number of hidden patches.*; got \[3, 5\] visible ones. Draw .*per_sample=False"
    with pytest.raises(ValueError, match=message):
        build(variant)(images(2), masked)


def test_mae_refuses_masks_that_leave_another_number_of_patches_than_latents():
    encoder = build(MAE)
    message = r"Expected 5 visible patches.*; got 6. Hide the fixed share low = high = 0.444444 "
    with pytest.raises(ValueError, match=message):
        encoder(images(2), masks(2, hidden=3))
    with pytest.raises(ValueError, match=r"Expected 5 visible patches.*; got 9"):
        encoder(images(2))


def test_dropping_half_of_the_patches_saves_a_third_of_the_work_of_vit_b():
    ratio = MaskRatio(low=0.5, high=0.5)
    masked = random_mask(1, 256, ratio, generator=torch.Generator().manual_seed(0))
    flops = {}
    for name, mask in [("mask-token", masked.to("meta")), ("dropped", masked)]:
        with torch.device("meta"):
            encoder = MaskedEncoder(EncoderConfig.preset("B", hidden_patches=name))
            image = torch.zeros(1, 3, 256, 256)
        with FlopCounterMode(display=False) as counter:
            encoder(image, mask)
        flops[name] = counter.get_total_flops()
    macs = {tokens: 12 * (12 * tokens * 768**2 + 2 * tokens**2 * 768) for tokens in (385, 257)}
    ends = 256 * 768 * 768 + 128 * 768 * 64
    assert flops == {"mask-token": 2 * (macs[385] + ends), "dropped": 2 * (macs[257] + ends)}
    assert round(macs[257] / macs[385] - 1, 2) == -0.35
    assert round(flops["dropped"] / flops["mask-token"] - 1, 2) == -0.35


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bottleneck": "mae"}, "hidden_patches 'dropped' with bottleneck 'mae'; got 'mask-token'"),
        (
            {"bottleneck": "simmim", "hidden_patches": "dropped"},
            "hidden_patches 'mask-token' with bottleneck 'simmim'; got 'dropped'. Choose hidden_pa",
        ),
        (
            {"bottleneck": "simmim"},
            "num_latents equal to the number of patches.*; got 128. Choose num_latents=256",
        ),
        (
            {"bottleneck": "mae", "hidden_patches": "dropped", "num_latents": 257},
            "num_latents at most 256.* 'mae'; got 257. Choose the number of visible",
        ),
    ],
)
def test_impossible_bottlenecks_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        EncoderConfig(**fields)
