import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from genmetrics import (
    BadInput,
    extract_features,
    frechet_distance_from_features,
    get_extractor,
    open_images,
)


@pytest.fixture(scope="module")
def extractor():
    return get_extractor("efflite0")


def as_tensor(images):
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)


def blurred(image):
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))


def shuffled_patches(image, size=9):
    rng = np.random.default_rng(0)
    grid = image.reshape(72 // size, size, 72 // size, size, 3).swapaxes(1, 2)
    patches = rng.permutation(grid.reshape(-1, size, size, 3))
    return patches.reshape(grid.shape).swapaxes(1, 2).reshape(image.shape)


def test_damage_is_ranked(extractor, emoji):
    first, second = emoji[:60], emoji[60:]
    reference = extract_features(as_tensor(first), extractor)

    def distance(images):
        return frechet_distance_from_features(
            extract_features(as_tensor(images), extractor), reference
        ).value

    clean = distance(second)
    blur = distance([blurred(image) for image in second])
    shuffle = distance([shuffled_patches(image) for image in second])
    assert 1.1 * clean < blur
    assert 1.1 * blur < shuffle


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_folder_and_tensor_of_the_same_images_agree(
    extractor, emoji, write_images, tmp_path, save
):
    images = emoji[:11]
    save(tmp_path / "x.npz", images)
    sources = (
        open_images(write_images(images)),
        open_images(tmp_path / "x.npz"),
        as_tensor(images),
    )
    folder, npz, tensor = (extract_features(source, extractor, 4) for source in sources)
    assert torch.equal(folder, npz)
    assert torch.equal(folder, tensor)


def test_batch_size_changes_rounding_only(extractor, emoji):
    images = as_tensor(emoji[:7])
    once, one_by_one = (extract_features(images, extractor, size) for size in (64, 1))
    torch.testing.assert_close(once, one_by_one, atol=1e-4, rtol=1e-4)
    assert once.dtype == torch.float32
    assert once.shape == (7, 1280)


def test_mixed_sizes_keep_their_order(extractor, emoji, write_images):
    sizes = [(72, 72), (40, 30), (72, 72), (40, 30), (30, 40)]
    images = [
        np.array(Image.fromarray(image).resize(size))
        for image, size in zip(emoji, sizes, strict=False)
    ]
    together = extract_features(open_images(write_images(images)), extractor, 4)
    alone = torch.cat([extract_features(as_tensor([image]), extractor) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_progress_counts_every_image(extractor, emoji, write_images):
    counts = []
    extract_features(open_images(write_images(emoji[:7])), extractor, 3, counts.append)
    assert counts == [3, 3, 1]


def test_corrupt_image_in_a_later_batch_is_named(extractor, emoji, write_images):
    folder = write_images(emoji[:9])
    (folder / "7.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"7\.png"):
        extract_features(open_images(folder), extractor, 3)
