import dataclasses
from pathlib import Path

import pytest
import torch

from mimflow_train.data.source import load_data
from mimflow_train.evaluation import finish as module


@pytest.fixture
def judged(data, monkeypatch):
    scores = dataclasses.make_dataclass("Scores", ["psnr"])(8.0)
    monkeypatch.setattr(module, "load_data", lambda *_: data)
    monkeypatch.setattr(module, "evaluate", lambda *_: scores)
    for name in ("trained_model", "sample_grid", "reconstruction_grid", "diagnose"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(module, "write_diagnostics", lambda *_: None)


@pytest.mark.usefixtures("judged")
def test_a_crash_in_the_middle_of_the_summary_leaves_none(config, tmp_path, monkeypatch):
    def half(path, text):
        path.write_bytes(text.encode()[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        module.finish(config, tmp_path, torch.device("cpu"))
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.usefixtures("judged")
def test_the_summary_by_which_scripts_know_the_end_comes_after_the_diagnostics(
    config, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "diagnose", stop)
    with pytest.raises(KeyboardInterrupt):
        module.finish(config, tmp_path, torch.device("cpu"))
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.usefixtures("judged")
def test_images_that_others_stand_in_for_are_named_unless_training_has(
    config, folder, tmp_path, monkeypatch, capsys
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load_data", load_data)
    monkeypatch.setattr(module, "evaluate", stop)
    images = dataclasses.replace(config.data, source=str(folder))
    config = dataclasses.replace(config, data=images)
    (folder / "red" / "7.png").write_bytes(b"no picture")
    for times in (1, 0):
        with pytest.raises(KeyboardInterrupt):
            module.finish(config, tmp_path, torch.device("cpu"))
        said = f"Cannot decode {folder / 'red' / '7.png'} (no image)"
        assert capsys.readouterr().err.count(said) == times
