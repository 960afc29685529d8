"""``mimflow-eval``: the files it leaves, and that its numbers are genmetrics' own on them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from genmetrics import evaluate, open_images
from genmetrics.networks.efflite0 import EffLite0Features
from mimflow_train.cli import eval as command
from mimflow_train.config.file import read_config, write_config
from mimflow_train.config.overrides import override
from mimflow_train.data.source import load_data
from mimflow_train.evaluation import scores
from mimflow_train.pretrained import (  # binds load_data before a test replaces it
    judged_step,
    trained_model,
)
from mimflow_train.recipes import tiny
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import export_weights, snapshot, write_checkpoint

SETS = ("samples", "real", "masked", "whole")


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def _small_network(extractor, monkeypatch):
    monkeypatch.setattr("genmetrics.get_extractor", lambda *_, **__: extractor)


@pytest.fixture
def finished(config, data, tmp_path, monkeypatch):
    monkeypatch.setattr("mimflow_train.data.source.load_data", lambda *_: data)
    config = override(config, ["seed=3"])
    write_config(config, tmp_path)
    write_checkpoint(snapshot(TrainState(config, torch.device("cpu"))), config, tmp_path)
    return tmp_path


@pytest.mark.usefixtures("_small_network")
def test_scores_are_those_of_the_files_that_are_left(
    finished, data, extractor, capsys, monkeypatch
):
    out, told = finished / "scores.json", []
    monkeypatch.setattr(
        "mimflow_train.evaluation.scores.counted",
        lambda batches, total, name: told.append(f"{total} of {name}") or batches,
    )
    options = ["--metrics", "fid,pr", "--num", 24, "--spectra", 2, "--inversion", 13, "--json", out]
    assert run(finished, "--device", "cpu", *options) == 0
    assert told == [f"{24 if name == 'samples' else 16} of {name}.npz" for name in SETS]
    text = capsys.readouterr().out
    for words in ("hidden in part", "no patch hidden", "sigma_min: exact", "N = 13"):
        assert words in text
    with np.load(finished / "eval" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (24, 16, 16, 3)
        counts = np.bincount(arrays["arr_1"])
    assert counts.tolist() == [9 + 5, 5 + 2, 2 + 1], "the held-out classes, and half as many again"
    real = open_images(finished / "eval" / "real.npz")
    assert np.array_equal(real.read(3), data.held_out.images[3].movedim(0, -1).numpy())
    scores = json.loads(out.read_text())
    again = evaluate(
        open_images(finished / "eval" / "samples.npz"),
        real,
        extractor=extractor,
        seed=3,
    )
    found = scores["samples"]["metrics"]["fd_efflite0"]
    assert found["value"] == pytest.approx(again["fd_efflite0"].value)
    masked, whole = (scores[f"{name}_reconstruction"]["metrics"] for name in ("masked", "whole"))
    assert masked["psnr"]["value"] != whole["psnr"]["value"]
    assert (scores["inversion_error"] < 1e-4, scores["num_inverted"]) == (True, 13)
    assert scores["probe"] is None
    of = {"step": 0, "weights": "ema", "guidance": 3.0, "images": "emoji"}
    assert scores["of"] == of
    assert json.loads((finished / "eval" / "scores.json").read_text()) == scores
    assert run(finished, "--device", "cpu", *options[:-1], "-") == 0
    assert json.loads(capsys.readouterr().out) == scores


@pytest.mark.usefixtures("_small_network")
def test_probe_tells_its_accuracy_by_depth_and_its_n(finished, capsys):
    assert run(finished, "--device", "cpu", "--num", 5, "--metrics", "fid", "--probe", 9) == 0
    assert "N = 8 training and 16 held-out images" in capsys.readouterr().out, "2 of class 2"
    probe = json.loads((finished / "eval" / "scores.json").read_text())["probe"]
    assert list(probe["accuracy"])[-3:] == ["latents", "block 1", "block 2"]
    assert (probe["n_train"], probe["n_held_out"], probe["chance"]) == (8, 16, 1 / 3)


def test_the_network_sees_each_image_once(finished, monkeypatch):
    seen, forward = [], EffLite0Features.forward
    monkeypatch.setattr(
        EffLite0Features, "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    assert run(finished, "--device", "cpu", "--num", 5, "--metrics", "fid") == 0
    assert sum(seen) == 5 + 3 * 16
    left = {file.name for file in (finished / "eval").iterdir()}
    assert left == {"scores.json", *(f"{name}.npz" for name in SETS)}


def test_the_step_that_is_judged_is_that_of_whole_weights(finished):
    folder = finished / "checkpoints" / "step_00000000"
    newer = shutil.copytree(folder, folder.with_name("step_00000004"))
    assert judged_step(finished) == 4
    (newer / "ema.safetensors").write_bytes(b"torn")
    assert judged_step(finished) == 0


@pytest.mark.usefixtures("_small_network")
def test_weights_on_their_own_score_as_their_run_does(finished, tmp_path, capsys):
    config = read_config(finished)
    weights = tmp_path / "moved" / "weights.safetensors"
    export_weights(finished / "checkpoints" / "step_00000000", config, weights)
    for model in (finished, weights):
        loaded = trained_model(config, model, torch.device("cpu"))
        assert not loaded.training
        assert not any(each.requires_grad for each in loaded.parameters())
    options = ["--device", "cpu", "--num", 5, "--metrics", "fid"]
    assert (run(finished, *options), run(weights, *options)) == (0, 0)
    one, other = capsys.readouterr().out.split("samples of the flow")[1:]
    assert one == other
    scores = json.loads((tmp_path / "moved" / "weights.eval" / "scores.json").read_text())
    assert scores["of"]["step"] == 0
    assert not list((tmp_path / "moved").rglob("report.html"))


def test_other_images_must_have_the_run_s_classes(finished, tmp_path, capsys):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        for number in range(2):
            path = tmp_path / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20)).save(path)
    assert run(finished, "--data", tmp_path / "images") == 2
    assert "Expected the run's 3 classes in" in capsys.readouterr().err


def test_emoji_are_the_package_s_as_in_mimflow_train(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    assert run(finished, "--data", "emoji") == 2
    assert "Expected the run's 3 classes in emoji, under the same names; got 12." in (
        capsys.readouterr().err
    )
    elsewhere = dataclasses.replace(tiny().data, source="elsewhere", fingerprint="other")
    write_config(dataclasses.replace(tiny(), data=elsewhere), finished)
    asked = []
    monkeypatch.setattr("mimflow_train.pretrained.trained_model", lambda *_: None)
    monkeypatch.setattr("mimflow_train.data.source.load_data", asked.append)
    with pytest.raises(AttributeError):  # None has no images
        run(finished, "--data", "emoji", "--device", "cpu")
    assert [each.data for each in asked] == [tiny().data]
    assert run(finished, "--data", "./emoji") == 3
    assert str(tmp_path / "emoji") in capsys.readouterr().err


@pytest.mark.usefixtures("_small_network")
def test_images_that_others_stand_in_for_are_named_once(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mimflow_train.data.source.load_data", load_data)
    for name in (f"{split}/{each}" for split in ("train", "val") for each in "abc"):
        for number in range(2):
            path = tmp_path / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((20, 20), 50).save(path)
    bad = tmp_path / "images/val/b/1.png"
    bad.write_bytes(b"no picture")
    options = ["--device", "cpu", "--num", 6, "--metrics", "fid"]
    assert run(finished, "--data", tmp_path / "images", *options) == 0
    assert capsys.readouterr().err.count(f"Cannot decode {bad} (no image)") == 1


@pytest.mark.usefixtures("_small_network")
def test_the_page_of_a_run_shows_its_scores_and_loses_none(finished, capsys):
    page, scores = finished / "report.html", finished / "eval" / "scores.json"
    options = ["--device", "cpu", "--num", 5, "--metrics", "fid"]
    assert run(finished, *options) == 0
    assert f"{page} shows these scores" in capsys.readouterr().err
    assert "against held-out images of emoji" in page.read_text()
    for path in (page, scores):
        path.unlink()
    page.mkdir()
    assert run(finished, *options) == 6
    said = capsys.readouterr()
    assert f"Expected to write {page}; " in said.err
    assert "samples of the flow" in said.out
    assert json.loads(scores.read_text())["num_inverted"] == 16


def test_a_file_that_holds_no_scores_is_not_replaced(finished, tmp_path, capsys):
    before = (finished / "config.json").read_text()
    assert run(finished, "--json", finished / "config.json") == 2
    assert "new file or earlier scores; " in capsys.readouterr().err
    assert (finished / "config.json").read_text() == before
    assert run(finished, "--json", tmp_path / "nowhere" / "a.json") == 2
    assert "in a folder that exists" in capsys.readouterr().err


def test_images_that_have_moved_are_asked_for(finished, tmp_path, capsys):
    config = read_config(finished)
    source = str(tmp_path / "gone")
    write_config(
        dataclasses.replace(config, data=dataclasses.replace(config.data, source=source)), finished
    )
    assert run(finished) == 2
    assert f"images in {source}; they are not there. Say" in capsys.readouterr().err


@pytest.mark.usefixtures("_small_network")
def test_kid_takes_subsets_that_there_are(finished):
    assert run(finished, "--device", "cpu", "--num", 12, "--metrics", "kid") == 0
    report = json.loads((finished / "eval" / "scores.json").read_text())["samples"]
    assert report["protocol"]["kid_subset_size"] == 12
    assert "kid_efflite0" in report["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "fid,sfid"], "Expected --extractor inception for sfid; got efflite0."),
        (["--num", "3"], "Expected at least 4 images in"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is_drawn(
    arguments, message, finished, capsys, monkeypatch
):
    def draw(*_):
        raise AssertionError("samples were drawn")

    monkeypatch.setattr(scores, "score_run", draw)
    assert run(finished, "--device", "cpu", *arguments) in (2, 3)
    assert message in capsys.readouterr().err


def test_mistakes_are_one_sentence(finished, capsys):
    for arguments, message in (
        (["--metrics", "fidd"], "got 'fidd'. Did you mean fid?"),
        (["--extractor", "eflite0"], "efflite0"),
        (["--num", "-1"], "Expected --num >= 0; got -1"),
        (["--probe", "-1"], "Expected --probe >= 0; got -1"),
        (["--inversion", "0"], "Expected --inversion >= 1; got 0"),
    ):
        assert run(finished, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
