import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scripts import run_script

from mim_encoder import EncoderConfig, MaskedEncoder, MaskRatio, mask_to_pixels, random_mask


def small(**overrides):
    shape = {"image_size": 12, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 2}
    return EncoderConfig(
        **{**shape, "num_latents": 5, "latent_dim": 3, "layer_scale": None, **overrides}
    )


def build(**overrides):
    torch.manual_seed(0)
    return MaskedEncoder(small(**overrides))


def images(batch, size=12):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def masks(batch, num_patches=9):
    generator = torch.Generator().manual_seed(2)
    return random_mask(batch, num_patches, MaskRatio(), generator=generator)


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    side=st.integers(1, 4),
    patch_size=st.integers(1, 5),
    num_heads=st.integers(1, 3),
    num_latents=st.integers(1, 7),
    latent_dim=st.integers(1, 5),
)
def test_shapes_follow_the_config(side, patch_size, num_heads, num_latents, latent_dim):
    encoder = build(
        image_size=side * patch_size,
        patch_size=patch_size,
        width=4 * num_heads,
        num_heads=num_heads,
        num_latents=num_latents,
        latent_dim=latent_dim,
    )
    posterior = encoder(images(2, side * patch_size), masks(2, side**2))
    assert posterior.mean.shape == (2, num_latents, latent_dim)
    assert posterior.features.shape == (2, num_latents, 4 * num_heads)
    assert posterior.sigma == encoder.config.sigma


def test_latents_ignore_hidden_pixels_and_heed_visible_ones():
    encoder, image, masked = build(), images(3), masks(3)
    other = torch.rand_like(image)
    hidden = mask_to_pixels(masked, (3, 3), 4)
    same = encoder(torch.where(hidden, other, image), masked)
    changed = encoder(torch.where(hidden, image, other), masked)
    expected = encoder(image, masked)
    assert torch.equal(same.mean, expected.mean)
    assert torch.equal(same.features, expected.features)
    assert ((changed.mean - expected.mean).abs().amax((1, 2)) > 1e-4).all()


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_hidden_patches_keep_their_place(position):
    encoder, image = build(), torch.zeros(2, 3, 12, 12)
    with torch.no_grad():
        (encoder.trunk.rope.freqs if position == "learned" else encoder.positions).zero_()
    masked = torch.eye(9, dtype=torch.bool)[[0, 5]]
    first, second = encoder(image, masked).mean
    assert (first - second).abs().max() > 1e-5
    everything = torch.ones(2, 9, dtype=torch.bool)
    encoder(image, everything).mean.square().sum().backward()
    place = encoder.positions if position == "learned" else encoder.trunk.rope.freqs
    assert place.grad.any()


@pytest.mark.parametrize("hidden_patches", ["mask-token", "dropped"])
def test_a_mask_may_lie_elsewhere_than_the_images(hidden_patches):
    encoder = build(hidden_patches=hidden_patches).to("meta")
    assert encoder(images(2).to("meta"), masks(2)).mean.shape == (2, 5, 3)


def test_no_mask_equals_a_mask_that_hides_nothing():
    encoder, image = build(), images(2)
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    assert torch.equal(encoder(image).mean, encoder(image, nothing).mean)


def test_train_and_eval_encode_the_same():
    encoder, image, masked = build(), images(2), masks(2)
    training, evaluating = encoder.train()(image, masked), encoder.eval()(image, masked)
    assert torch.equal(training.mean, evaluating.mean)
    assert torch.equal(encoder(image).mean, encoder.train()(image).mean)


def test_batch_of_one_equals_a_row_of_a_batch():
    encoder, image, masked = build().double(), images(4).double(), masks(4)
    together = encoder(image, masked).mean
    assert together.dtype == torch.float64
    for row in range(4):
        alone = encoder(image[row : row + 1], masked[row : row + 1]).mean
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)


def test_features_are_the_latent_queries_not_the_class_token():
    encoder, image = build().double(), images(2).double()
    queries = encoder.latents + encoder.latent_positions
    prefix = torch.cat([queries, encoder.class_token]).expand(2, -1, -1)
    patches = encoder.embed(image) + encoder.positions
    expected = encoder.trunk(prefix, patches, (3, 3))[0][:, :5]
    torch.testing.assert_close(encoder(image).features, expected, rtol=0, atol=1e-12)


def test_position_of_a_patch_matters():
    encoder, image = build().double(), images(1).double()
    moved = encoder(image.roll(4, dims=3)).mean
    assert (moved - encoder(image).mean).abs().max() > 1e-4


def test_features_are_what_the_mean_is_projected_from():
    encoder = build()
    posterior = encoder(images(2), masks(2))
    assert torch.equal(encoder.to_latent(posterior.features), posterior.mean)


@pytest.mark.parametrize("layer_scale", [None, 1e-5])
def test_every_parameter_gets_a_finite_gradient(layer_scale):
    encoder = build(layer_scale=layer_scale)
    encoder(images(3), masks(3)).mean.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_only_the_mask_token_is_idle_when_nothing_is_hidden():
    encoder = build()
    encoder(images(2)).mean.square().sum().backward()
    idle = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert idle == ["mask_token"]


def test_mean_stays_float32_and_close_under_bfloat16_autocast():
    encoder, image, masked = build(), images(2), masks(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(image, masked)
    exact = encoder(image, masked).mean
    assert rounded.mean.dtype == torch.float32
    # Unrounded: a bfloat16 result would survive the round trip.
    assert not torch.equal(rounded.mean.bfloat16().float(), rounded.mean)
    assert (rounded.mean - exact).abs().max() < 0.05 * exact.std()


def test_images_of_half_precision_are_encoded_under_autocast():
    encoder, image, masked = build(), images(2).bfloat16(), masks(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, whole = encoder(image, masked).mean, encoder(image.float(), masked).mean
    torch.testing.assert_close(half, whole)


def test_saved_weights_rebuild_the_encoder_from_its_config():
    encoder, image = build(), images(1)
    copy = MaskedEncoder(encoder.config)
    copy.load_state_dict(encoder.state_dict())
    assert torch.equal(copy(image).mean, encoder(image).mean)


@pytest.mark.parametrize("assign", [False, True])
def test_weights_are_all_that_an_encoder_without_memory_needs(assign):
    encoder, image = build(), images(2)
    with torch.device("meta"):
        other = MaskedEncoder(encoder.config)
    if not assign:
        other.to_empty(device="cpu")
        for buffer in other.buffers():
            buffer.fill_(7.0)  # as memory may be that nobody has filled
    other.load_state_dict(encoder.state_dict(), assign=assign)
    assert torch.equal(other(image).mean, encoder(image).mean)


def test_images_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match=r"Expected images of .* 12, 12\); got .* 12, 16\). Resize"
    ):
        build()(torch.zeros(1, 3, 12, 16))


def test_masks_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"mask of 2x9 \(images x patches\); got 2x8. Draw it"):
        build()(images(2), torch.zeros(2, 8, dtype=torch.bool))


COMPILED = """
import torch
from mim_encoder import EncoderConfig, MaskedEncoder
torch.amp.is_autocast_available = torch.compiler.disable(torch.amp.is_autocast_available)  # 2.11
encoder, image = MaskedEncoder(EncoderConfig.preset("tiny")), torch.zeros(1, 3, 32, 32)
compiled = torch.compile(encoder, fullgraph=True, backend="eager")
for enabled in (False, True):
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        given = image.bfloat16() if enabled else image
        mean = compiled(given, torch.arange(64)[None] % 2 == 0).mean
        print(mean.dtype, mean.isfinite().all().item())
"""


def test_an_encoder_compiles_into_one_graph():
    # In a process of its own, since torch.compile cannot trace the type checks of this run.
    run = run_script(COMPILED)
    assert run.stdout == "torch.float32 True\n" * 2, run.stderr[-2000:]


EXPORTED = """
import torch
from mim_encoder import EncoderConfig, MaskedEncoder
b = torch.export.Dim("b")
for hidden in ("mask-token", "dropped"):
    encoder = MaskedEncoder(EncoderConfig.preset("tiny", depth=1, hidden_patches=hidden))
    image, masked = torch.randn(5, 3, 32, 32), torch.arange(64).expand(5, 64) % 2 == 0
    for given in [(image,), (image, masked)][: 1 if hidden == "dropped" else 2]:
        two = tuple(each[:2] for each in given)
        program = torch.export.export(encoder, two, dynamic_shapes=tuple({0: b} for _ in two))
        torch.export.save(program, "encoder.pt2")
        exported = torch.export.load("encoder.pt2").module()
        print(torch.equal(exported(*given).mean, encoder(*given).mean))
"""
LOADED = """
import torch
from mim_encoder import LatentPosterior
print(torch.export.load("encoder.pt2").module()(torch.zeros(3, 3, 32, 32)).mean.shape)
"""


def test_an_encoder_is_exported_for_any_number_of_images(tmp_path):
    run = run_script(EXPORTED, tmp_path)  # nor can torch.export trace type checks
    assert run.stdout == "True\n" * 3, run.stderr[-2000:]
    script = [sys.executable, "-c", LOADED]  # where nothing of the package is loaded yet
    loaded = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert loaded.stdout == "torch.Size([3, 16, 16])\n", loaded.stderr[-2000:]
