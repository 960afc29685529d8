import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_encoder import patchify
from vit_decoder import DecoderConfig, PixelDecoder


def build(**overrides):
    torch.manual_seed(0)
    shape = {"image_size": 12, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 2}
    latents = {"num_latents": 5, "latent_dim": 3}
    return PixelDecoder(DecoderConfig.preset("tiny", **{**shape, **latents, **overrides}))


def latents(batch, k=5, d=3):
    return torch.randn(batch, k, d, generator=torch.Generator().manual_seed(1))


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    patch_size=st.integers(1, 5),
    num_heads=st.integers(1, 3),
    num_latents=st.integers(1, 7),
)
def test_any_grid_of_patches_can_be_decoded(rows, columns, patch_size, num_heads, num_latents):
    decoder = build(
        image_size=2 * patch_size,
        patch_size=patch_size,
        width=4 * num_heads,
        num_heads=num_heads,
        num_latents=num_latents,
    )
    z = latents(2, k=num_latents)
    size = (rows * patch_size, columns * patch_size)
    assert decoder(z).shape == (2, 3, 2 * patch_size, 2 * patch_size)
    assert decoder(z, size=size).shape == (2, 3, *size)


def test_the_configured_size_is_the_default():
    decoder = build()
    assert torch.equal(decoder(latents(2)), decoder(latents(2), size=(12, 12)))


@pytest.mark.parametrize("head", ["linear", "refined"])
def test_no_latents_make_no_images(head):
    assert build(head=head)(latents(0)).shape == (0, 3, 12, 12)
    assert build(head=head)(latents(0), size=(8, 20)).shape == (0, 3, 8, 20)


def test_patches_are_told_apart_by_rotary_positions_alone():
    decoder = build().double()
    patches = patchify(decoder(latents(1).double()), 4)[0]
    distances = torch.pdist(patches)
    assert distances.min() > 1e-4 * patches.std()
    with torch.no_grad():
        decoder.to_tokens.trunk.rope.freqs.zero_()
    blind = patchify(decoder(latents(1).double()), 4)[0]
    assert torch.pdist(blind).max() < 1e-12


def test_every_latent_matters_and_so_does_their_order():
    decoder, z = build().double(), latents(1).double()
    image = decoder(z)
    for token in range(5):
        other = z.clone()
        other[:, token] += 1
        assert (decoder(other) - image).abs().max() > 1e-4
    assert (decoder(z.flip(1)) - image).abs().max() > 1e-4


def test_batch_of_one_equals_a_row_of_a_batch():
    decoder, z = build().double(), latents(4).double()
    together = decoder(z)
    assert together.dtype == torch.float64
    for row in range(4):
        torch.testing.assert_close(decoder(z[row : row + 1])[0], together[row], rtol=0, atol=1e-12)


def test_images_are_not_clamped():
    decoder = build()
    with torch.no_grad():
        decoder.head.weight *= 100
    assert decoder(latents(2)).abs().max() > 2


def test_head_writes_row_column_channel():
    decoder = build()
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.copy_(torch.arange(48.0))
    image = decoder(latents(1))
    assert image[0, :, 4, 9].tolist() == [3.0, 4.0, 5.0]
    assert image[0, :, 5, 8].tolist() == [12.0, 13.0, 14.0]


def test_the_native_grid_is_no_special_case():
    square, tall = build(), build(image_size=24)
    z = latents(2)
    assert torch.equal(square(z), tall(z, size=(12, 12)))
    assert torch.equal(square(z, size=(24, 24)), tall(z))


def test_rows_and_columns_of_any_grid_are_told_apart_by_their_frequencies():
    decoder, z = build().double(), latents(1).double()
    wide = patchify(decoder(z, size=(8, 20)), 4)
    with torch.no_grad():
        decoder.to_tokens.trunk.rope.freqs.copy_(decoder.to_tokens.trunk.rope.freqs.flip(0))
    tall = patchify(decoder(z, size=(20, 8)), 4)
    expected = rearrange(wide, "b (y x) p -> b (x y) p", y=2)
    torch.testing.assert_close(tall, expected, rtol=0, atol=1e-9)
    assert (tall - wide).abs().max() > 1e-4


def test_refined_head_starts_as_the_linear_one():
    linear, refined, z = build(), build(head="refined"), latents(2)
    extra = refined.load_state_dict(linear.state_dict(), strict=False).missing_keys
    assert extra == ["refine.weight", "refine.bias"]
    assert torch.equal(linear(z), refined(z))
    assert torch.equal(linear(z, size=(8, 20)), refined(z, size=(8, 20)))


def test_refined_head_looks_across_the_seams_of_patches():
    decoder = build(head="refined").double()
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.refine.weight.fill_(1)
    decoder.head.bias.data = torch.zeros(48, dtype=torch.float64)
    decoder.head.bias.data[0] = 1  # red of the top left pixel of every patch
    red, green, _ = decoder(latents(1).double())[0]
    assert green[3, 3] == 1
    assert green[4:6, 4:6].tolist() == [[1, 1], [1, 1]]
    assert green[6, 6] == 0
    assert red[4, 4] == 2


@pytest.mark.parametrize("head", ["linear", "refined"])
@pytest.mark.parametrize("layer_scale", [None, 1e-5])
def test_every_parameter_gets_a_finite_gradient(layer_scale, head):
    decoder = build(layer_scale=layer_scale, head=head)
    decoder(latents(3)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_decodes_under_bfloat16_autocast():
    decoder, z = build(), latents(2)
    exact = decoder(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = decoder(z)
        half = decoder(z.bfloat16())
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.std()
    torch.testing.assert_close(half, rounded)


def test_drop_path_is_a_function_of_the_draws_of_each_image():
    decoder, z = build(drop_path=0.9), latents(3)
    draws = torch.ones(3, decoder.config.depth, 2)
    draws[1] = 0.0
    mixed, kept = decoder(z, uniform=draws), decoder(z, uniform=torch.ones_like(draws))
    assert torch.equal(mixed[[0, 2]], kept[[0, 2]])
    assert not torch.equal(mixed[1], kept[1])
    assert torch.equal(decoder.train()(z), decoder.eval()(z))


@pytest.mark.parametrize(("k", "d"), [(4, 3), (5, 1), (1, 3)])
def test_latents_of_another_shape_are_refused(k, d):
    with pytest.raises(
        ValueError, match=rf"Expected z of shape \(b, 5, 3\); got \(2, {k}, {d}\). Set"
    ):
        build()(latents(2, k, d))


@pytest.mark.parametrize("size", [(12, 13), (0, 12), (-4, 4)])
def test_sizes_that_patches_cannot_tile_are_refused(size):
    with pytest.raises(ValueError, match=f"multiples of patch_size=4; got {size[0]}x{size[1]}"):
        build()(latents(1), size=size)
