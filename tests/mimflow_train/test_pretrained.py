import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mimflow_train.cli import inspect
from mimflow_train.config.file import write_config
from mimflow_train.errors import ConfigError, StorageError
from mimflow_train.pretrained import load_trained
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import export_weights, snapshot, write_checkpoint


@pytest.fixture
def trained(config, tmp_path):
    """Return a run folder, and the averaged weights of its checkpoint."""
    write_config(config, tmp_path)
    state = TrainState(config, torch.device("cpu"))
    with torch.no_grad():
        for weight in state.ema.parameters():
            weight.add_(0.01)
    write_checkpoint(snapshot(state), config, tmp_path)
    return tmp_path, state.ema.state_dict()


def test_a_run_and_its_exported_file_are_the_same_networks(trained, config, tmp_path):
    folder, weights = trained
    file = tmp_path / "w.safetensors"
    export_weights(folder / "checkpoints" / "step_00000000", config, file)
    for run in (folder, str(folder), file):
        model = load_trained(run)
        found = model.state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())
    assert model.generate(torch.tensor([0, 2])).shape == (2, 3, 16, 16)


def test_examples_of_the_readme_run(trained, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "packages/mimflow-train/README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert [len(each.splitlines()) <= 10 for each in examples] == [True, True, True]
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        inspect.main([str(folder), "--export", "networks"])
    Image.new("RGB", (20, 24), "red").save("photo.png")
    names = {}
    for each in examples:
        small = each.replace("runs/tiny-emoji", str(folder)).replace("[3, 7]", "[0, 2]")
        exec(compile(small.replace(", 32)", ", 16)"), "README.md", "exec"), names)
    assert "torch.Size([2, 3, 16, 16])" in capsys.readouterr().out
    assert (tmp_path / "between.png").exists()
    assert torch.equal(
        names["encoder"](names["photo"]).mean, names["model"].encoder(names["photo"]).mean
    )
    assert names["images"].shape == (2, 3, 16, 16)


def test_what_is_no_trained_run_is_said(config, tmp_path):
    with pytest.raises(ConfigError, match="Expected a run folder with"):
        load_trained(tmp_path)
    write_config(config, tmp_path)
    with pytest.raises(StorageError, match="Train it first"):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"width": 3}))
    with pytest.raises(ConfigError, match="width"):
        load_trained(tmp_path)
