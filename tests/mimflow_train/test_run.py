import pytest
import torch

from mimflow_train.plan import Plan
from mimflow_train.run import run_local


class KeptError(Exception):
    pass


def keep():
    raise KeptError


def test_a_run_on_a_cpu_keeps_the_memory_that_its_steps_free(config, tmp_path, monkeypatch):
    monkeypatch.setattr("mimflow_train.run.keep_freed_memory", keep)
    with pytest.raises(KeptError):
        run_local(config, tmp_path, torch.device("cpu"), Plan(until=1, checkpoint_every=1))
