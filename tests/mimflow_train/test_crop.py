import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mimflow_train.data.crop import crop_square


def published_crop(image, size):
    """``center_crop_arr`` of openai/guided-diffusion:guided_diffusion/image_datasets.py (MIT)."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(
        tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC
    )
    pixels = np.array(image)
    top = (pixels.shape[0] - size) // 2
    left = (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def noise(width, height):
    draw = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("width", "height"), list(product((13, 27, 31), (13, 28, 54))))
@pytest.mark.parametrize("size", [7, 8, 13])
def test_crop_is_the_published_one(width, height, size):
    image = noise(width, height)
    assert np.array_equal(np.array(crop_square(image, size)), published_crop(image, size))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 20))
def test_crop_of_any_picture_is_square(width, height, size):
    assert crop_square(noise(width, height), size).size == (size, size)


def test_crop_halves_before_it_resizes():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).convert("RGB")
    halved = np.array(crop_square(stripes, 16))
    assert set(halved.ravel().tolist()) <= {math.floor(127.5), math.ceil(127.5)}
