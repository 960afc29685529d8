import shutil

import pytest
import torch
from torch import nn

from genmetrics import Extractor
from mimflow_train.config.overrides import override
from mimflow_train.reproduce import session as module
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import trained


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
def session(config, data, extractor, tmp_path, monkeypatch):
    """Runs of three steps on sixteen images of noise, judged by a small network."""
    for name in ("mimflow_train.run.load_data", f"{module.__name__}.load_data"):
        monkeypatch.setattr(name, lambda *_: data)
    monkeypatch.setattr(f"{module.__name__}.get_extractor", lambda *_, **__: extractor)
    base = override(config, ["steps=3"])
    return Session(base=base, seeds=(0, 1), out=tmp_path, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def kept_runs(tmp_path_factory):
    """Receives the runs that fixtures train, of which later tests have copies."""
    return tmp_path_factory.mktemp("kept-runs")


@pytest.fixture
def run(session, kept_runs):
    """The run of the session's recipe, trained."""
    return kept(kept_runs / "base", session, lambda: trained(session, session.base))


def kept(folder, session, train):
    """Return what ``train`` does, from a copy of the runs that it left here before."""
    runs = session.out / "runs"
    if folder.exists():
        shutil.copytree(folder, runs, dirs_exist_ok=True)
        return train()
    made = train()
    shutil.copytree(runs, folder)
    return made
