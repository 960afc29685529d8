import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_encoder import MaskRatio, mask_image, mask_to_pixels, patchify, random_mask, unpatchify

sizes = st.integers(1, 5)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(rows=sizes, columns=sizes, patch_size=sizes, channels=st.integers(1, 4))
def test_unpatchify_inverts_patchify(rows, columns, patch_size, channels):
    image = torch.rand(2, channels, rows * patch_size, columns * patch_size)
    patches = patchify(image, patch_size)
    assert patches.shape == (2, rows * columns, patch_size**2 * channels)
    assert torch.equal(unpatchify(patches, (rows, columns), patch_size), image)


def test_patches_run_in_raster_order_with_the_channel_fastest():
    image = torch.rand(1, 3, 4, 6)
    patches = patchify(image, 2)
    for row in range(2):
        for column in range(3):
            cut = image[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = [cut[c, i, j] for i in range(2) for j in range(2) for c in range(3)]
            assert patches[0, 3 * row + column].tolist() == [value.item() for value in expected]


@settings(derandomize=True, deadline=None, max_examples=20)
@given(rows=sizes, columns=sizes, patch_size=sizes)
def test_pixel_mask_is_the_patch_mask_seen_through_patchify(rows, columns, patch_size):
    ratio = MaskRatio(low=0.5, high=0.5)
    masked = random_mask(3, rows * columns, ratio, generator=torch.Generator().manual_seed(0))
    pixels = mask_to_pixels(masked, (rows, columns), patch_size)
    assert pixels.dtype == torch.bool
    assert pixels.shape == (3, 1, rows * patch_size, columns * patch_size)
    assert torch.equal(patchify(pixels.float(), patch_size).amin(-1).bool(), masked)
    assert torch.equal(patchify(pixels.float(), patch_size).amax(-1).bool(), masked)


def test_mask_image_fills_hidden_patches_and_keeps_the_rest():
    image = torch.rand(2, 3, 4, 6) + 1
    masked = torch.tensor([[True, False, False, False, True, False], [False] * 6])
    shown = mask_image(image, masked, 2, fill=-1.0)
    assert (patchify(shown, 2)[masked] == -1).all()
    assert torch.equal(patchify(shown, 2)[~masked], patchify(image, 2)[~masked])


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (1, 3, 4, 6)])
def test_images_that_patches_cannot_tile_are_refused(shape):
    image = torch.zeros(shape)
    message = f"divisible by patch_size=4; got {shape[2]}x{shape[3]}. Resize or crop"
    with pytest.raises(ValueError, match=message):
        patchify(image, 4)
    with pytest.raises(ValueError, match=message):
        mask_image(image, torch.zeros(1, 1, dtype=torch.bool), 4)
