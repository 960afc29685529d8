import shutil

import pytest
import torch

from mimflow_train.config.overrides import override
from mimflow_train.reproduce import session as module
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import trained


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
