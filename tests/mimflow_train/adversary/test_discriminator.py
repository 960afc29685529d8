"""What the decoder learns against: discriminators, their losses, and what they are shown."""

import pytest
import timm
import torch

from mimflow_train.adversary.augment import NUM_UNIFORM, augmented
from mimflow_train.adversary.build import build_discriminator
from mimflow_train.adversary.dino import DinoDiscriminator
from mimflow_train.adversary.discriminator import (
    LeCam,
    PatchDiscriminator,
    hinge_discriminator,
    hinge_generator,
    lecam_penalty,
)
from mimflow_train.config import DiscriminatorConfig
from mimflow_train.errors import WeightsError
from mimflow_train.frozen.dino import DINO_NAME, DinoTokens

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dino_file(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("dino") / "dino_deitsmall8_pretrain.pth"
    torch.save(timm.create_model(DINO_NAME, num_classes=0).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def dino(dino_file):
    torch.manual_seed(1)
    return DinoDiscriminator(DinoTokens(dino_file, CPU))


@pytest.fixture(scope="module")
def small_dino(dino_file):
    """The same for images of 64 px: 64 tokens, not 784."""
    torch.manual_seed(1)
    tokens = DinoTokens(dino_file, CPU)
    tokens.network.set_input_size((64, 64))
    tokens.network.requires_grad_(requires_grad=False)
    return DinoDiscriminator(tokens)


@pytest.fixture
def at_64_px(monkeypatch):
    monkeypatch.setattr("mimflow_train.frozen.dino.DINO_SIZE", (64, 64))


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_patch_discriminator_is_the_published_one():
    with torch.device("meta"):
        discriminator = PatchDiscriminator(DiscriminatorConfig())
        logits = discriminator(torch.empty(2, 3, 256, 256))
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_765_633
    assert logits.shape == (2, 1, 30, 30)


def test_dino_discriminator_is_the_published_one(dino, images):
    assert sum(parameter.numel() for parameter in dino.parameters()) == 7_386_245
    with torch.no_grad():
        assert dino(images[:1]).shape == (1, 5 * 784)
    assert not [name for name in dino.state_dict() if not name.startswith("heads.")]


@pytest.mark.usefixtures("at_64_px")
def test_dino_tokens_are_what_the_blocks_put_out(small_dino, images):
    network, seen = small_dino.tokens.network, {}
    hooks = [
        network.blocks[depth].register_forward_hook(
            lambda _, __, out, depth=depth: seen.update({depth: out[:, 1:]})
        )
        for depth in (2, 5, 8, 11)
    ]
    tokens = small_dino.tokens(images)
    for hook in hooks:
        hook.remove()
    for token, depth in zip(tokens, (11, 2, 5, 8, 11), strict=True):
        torch.testing.assert_close(token, seen[depth])


@pytest.mark.usefixtures("at_64_px")
@pytest.mark.parametrize("kind", ["patch", "dino"])
def test_logits_do_not_depend_on_the_batch(kind, small_dino, images):
    torch.manual_seed(0)
    patch = PatchDiscriminator(DiscriminatorConfig(width=16, depth=2))
    discriminator = {"patch": patch, "dino": small_dino}[kind].eval()
    with torch.no_grad():
        alone = discriminator(images[1:])
        torch.testing.assert_close(discriminator(images)[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("at_64_px")
def test_gradients_pass_the_frozen_eye_and_leave_it_alone(small_dino, images):
    image = images[:1].requires_grad_()
    small_dino(image).mean().backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in small_dino.parameters())
    assert all(parameter.grad is None for parameter in small_dino.tokens.network.parameters())
    small_dino.zero_grad()


def test_missing_eye_is_an_error_before_anything_else(dino_file, monkeypatch):
    config = DiscriminatorConfig(kind="dino")
    monkeypatch.setenv("MIMFLOW_WEIGHTS", str(dino_file.parent))
    assert isinstance(build_discriminator(config, CPU), DinoDiscriminator)
    monkeypatch.setenv("MIMFLOW_WEIGHTS", "/nowhere")
    monkeypatch.setenv("MIMFLOW_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"DINO ViT-S/8, .*dino_deitsmall8_pretrain\.pth"):
        build_discriminator(config, CPU)


def test_hinge_losses_of_known_logits():
    two = torch.full((1, 1, 1, 1), 2.0)
    assert hinge_discriminator(two, -two) == 0
    assert hinge_discriminator(0 * two, 0 * two) == 1
    assert hinge_discriminator(-two, two) == 3
    assert hinge_generator(two) == -2


def test_lecam_compares_either_kind_with_the_other_s_average():
    lecam = LeCam()
    assert lecam_penalty(torch.zeros(3), torch.zeros(3), lecam) == 0
    for _ in range(3):
        lecam.update(torch.tensor(2.0), torch.tensor(-1.0))
    for average, wanted in zip(lecam.averages(), (2.0, -1.0), strict=True):
        torch.testing.assert_close(average, torch.tensor(wanted))
    real, fake = torch.tensor([1.0, -3.0]), torch.tensor([0.0, 5.0])
    # real is 2 above -1, and once below; fake is 2 below 2, and once above
    torch.testing.assert_close(lecam_penalty(real, fake, lecam), torch.tensor(4 / 2 + 4 / 2))


def test_lecam_follows_slowly():
    lecam = LeCam()
    lecam.update(torch.tensor(0.0), torch.tensor(0.0))
    lecam.update(torch.tensor(1.0), torch.tensor(1.0))
    torch.testing.assert_close(lecam.averages()[0], torch.tensor(0.001 / (1 - 0.999**2)))


def test_shift_is_a_whole_number_of_pixels_up_to_an_eighth():
    image = torch.zeros(1, 3, 16, 16)
    image[0, :, 8, 8] = 1
    places = set()
    for y in torch.linspace(0, 0.999, 20).tolist():
        for x in (0.0, 0.5, 0.999):
            uniform = torch.tensor([[0.5, 0.5, 0.5, y, x]])
            moved = augmented(image, uniform)[0, 0]
            assert moved.max() == pytest.approx(1)
            assert (moved > 0.5).sum() == 1
            places.add(divmod(int(moved.argmax()), 16))
    assert places == {(row, column) for row in range(6, 11) for column in (6, 8, 10)}


def test_colours_change_as_diffaug_says(images):
    uniform = torch.full((2, NUM_UNIFORM), 0.5)
    assert torch.allclose(augmented(images, uniform), images, atol=1e-6)
    brighter = augmented(images, uniform + torch.tensor([0.25, 0, 0, 0, 0]))
    torch.testing.assert_close(brighter, images + 0.25)
    grey = augmented(images, uniform - torch.tensor([0, 0.5, 0, 0, 0]))
    torch.testing.assert_close(grey, images.mean(1, keepdim=True).expand_as(images))
    flat = augmented(images, uniform - torch.tensor([0, 0, 0.5, 0, 0]))
    mean = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(flat, mean + 0.5 * (images - mean))


def test_each_image_is_augmented_on_its_own(images):
    uniform = torch.rand(2, NUM_UNIFORM, generator=torch.Generator().manual_seed(0))
    both = augmented(images, uniform)
    torch.testing.assert_close(both[1:], augmented(images[1:], uniform[1:]))
    image = images.clone().requires_grad_()
    augmented(image, uniform).sum().backward()
    assert torch.isfinite(image.grad).all()
