import pytest
import torch

from mimflow_train.config.overrides import override
from mimflow_train.reproduce import session as module
from mimflow_train.reproduce.session import Session


@pytest.fixture
def session(config, data, tmp_path, monkeypatch):
    """Runs of three steps on sixteen images of noise."""
    for name in ("mimflow_train.run.load_data", f"{module.__name__}.load_data"):
        monkeypatch.setattr(name, lambda *_: data)
    base = override(config, ["steps=3"])
    return Session(base=base, seeds=(0, 1), out=tmp_path, device=torch.device("cpu"))
