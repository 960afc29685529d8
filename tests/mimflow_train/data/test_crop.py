import math
import struct
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genmetrics.images.adm_crop import adm_crop_picture

READ = """
import sys
from mimflow_train.data.decoding import load_rgb
from genmetrics import open_images
from pathlib import Path
file = Path(sys.argv[1])
print(load_rgb(file).size, open_images(file.parent).read(0).shape)
"""


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (b"\x02\x00\x12\x01\x03\x00", "Corrupt EXIF data"),  # two entries, half of one
        (
            b"\x01\x00" + struct.pack("<HHLLL", 271, 2, 99, 2000, 0),
            "Tag data larger than file|Truncated File Read",
        ),
    ],
)
def test_damaged_exif_data_is_passed_over_in_silence(entries, words, tmp_path):
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + entries
    Image.new("RGB", (5, 4)).save(tmp_path / "1.jpg", exif=exif)
    with pytest.warns(UserWarning, match=words), Image.open(tmp_path / "1.jpg") as image:
        image.getexif().get(271)
    # In a process of its own, since pytest has its own filters of warnings.
    read = [sys.executable, "-W", "error::UserWarning", "-c", READ, tmp_path / "1.jpg"]
    run = subprocess.run(read, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("(5, 4) (4, 5, 3)\n", "")


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
    assert np.array_equal(np.array(adm_crop_picture(image, size)), published_crop(image, size))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 20))
def test_crop_of_any_picture_is_square(width, height, size):
    assert adm_crop_picture(noise(width, height), size).size == (size, size)


def test_crop_halves_before_it_resizes():
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).convert("RGB")
    halved = np.array(adm_crop_picture(stripes, 16))
    assert set(halved.ravel().tolist()) <= {math.floor(127.5), math.ceil(127.5)}
