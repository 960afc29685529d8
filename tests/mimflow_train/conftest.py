import dataclasses
import errno
import os
import stat

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from genmetrics import Extractor
from mimflow_train.config.overrides import override
from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.recipes import tiny

SMALL = [
    "model.encoder.image_size=16",
    "model.encoder.num_latents=4",
    "model.encoder.latent_dim=6",
    "model.encoder.width=16",
    "model.encoder.depth=1",
    "model.encoder.num_heads=2",
    "model.decoder.image_size=16",
    "model.decoder.num_latents=4",
    "model.decoder.latent_dim=6",
    "model.decoder.width=16",
    "model.decoder.depth=1",
    "model.decoder.num_heads=2",
    "model.flow.num_tokens=4",
    "model.flow.token_dim=6",
    "model.flow.width=16",
    "model.flow.head_dim=8",
    "model.flow.depths=(1,1)",
    "model.encoder.patch_size=4",
    "model.decoder.patch_size=4",
    "model.features.efflite0.grid=(4,4)",
    "model.features.efflite0.num_latents=4",
    "model.features.efflite0.latent_dim=6",
    "model.features.efflite0.kind=mlp",
    "model.features.efflite0.hidden_width=8",
    "optim.warmup_steps=0",
    "decoder_phase.steps=0",
    "global_batch=8",
    "steps=6",
    "precision=fp32",
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def blank_drawings(monkeypatch):
    """Curves and plots are not drawn, which takes seconds: for tests that look at words alone."""

    def savefig(_, file, **__):
        Image.new("L", (1, 1)).save(file, "png")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def config():
    """The tiny recipe, smaller still, on three classes; no frozen network."""
    small = override(tiny(("a", "b", "c"), "emoji"), [*SMALL, "loss.perceptual=0.0"])
    return dataclasses.replace(small, model=dataclasses.replace(small.model, features={}))


class SmallFeatures(nn.Module):
    """Features of uint8 images as they are, in no time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten())

    def forward(self, images):
        return {"features": self.layers(images.contiguous() / 255)}


@pytest.fixture(scope="session")
def extractor():
    """A feature network with classes that goes by efflite0's name, where any does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, classifier = SmallFeatures(), nn.Linear(128, 5)
    network.requires_grad_(requires_grad=False)
    return Extractor(
        "efflite0",
        outputs={"features": 128},
        preprocess_id="none",
        weights_sha256="1",
        network=network.eval(),
        device=torch.device("cpu"),
        classifier=classifier.requires_grad_(requires_grad=False),
    )


@pytest.fixture
def data():
    """Sixteen images of noise in three classes of unequal size."""
    pixels = torch.randint(0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 2)
    split = Split(MemoryImages(pixels.to(torch.uint8)), labels)
    return LabelledImages(split, split, ("a", "b", "c"))


@pytest.fixture
def folder(tmp_path):
    """A folder of 40 coloured squares in two classes."""
    root = tmp_path / "images"
    for label, name in enumerate(("blue", "red")):
        (root / name).mkdir(parents=True)
        for number in range(20):
            shade = (40 * label + 5 * number, 20, 250 - 200 * label - number)
            Image.new("RGB", (20, 24), shade).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def _folders_without_sync(monkeypatch):
    """A file system that can sync files alone."""
    sync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
