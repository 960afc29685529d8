"""``mimflow-reproduce``: what it refuses, lists and writes."""

import json
import re
import signal
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from mimflow_train.cli import reproduce as command
from mimflow_train.device.work import Work
from mimflow_train.engine.workers import Workers
from mimflow_train.reproduce import estimate, tables
from mimflow_train.reproduce.experiments import EXPERIMENTS


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel5-mask"], "Did you mean table5-mask"),
        (["table5"], "table5-mask or table5-target or table5-tokens or table5-sigma?"),
        (["table99x"], "Did you mean table9?"),
        (["all", "--row", "1"], "Expected --row with one name; got all"),
        (["fig6", "--row", "latents"], "Expected fig6 as a whole"),
        (["table9", "--row", "7"], "Expected --row as one of: 1; 5; 10; got '7'"),
        (["table5-target", "--row", "DINO + CLIP"], "Expected --row as one of: EfficientNet"),
        (["table5-tokens", "--row", "1/2 of patches"], "Did you mean '1/2 of the patches'?"),
        (["table1", "--seeds", "0,0"], "Expected --seeds as different numbers"),
        (["table1", "--seeds", "a"], "Give 0,1,2"),
        (["table1", "--seeds", "0,00"], "Expected --seeds as different numbers"),
        (["table1", "--set", "seed=3"], "Give --seeds 3"),
        (["table1", "--workers", 0], "Expected --workers >= 1"),
        (["table1", "--num", -1], "Expected --num >= 0"),
        (["table1", "--num", 3], "Expected --num >= 4 samples"),
        (["table1", "--scale", "M"], "Expected --scale tiny"),
        (["table1", "--scale", "L"], "Expected --data with --scale L"),
        (["table1", "--scale", "L", "--quick"], "Expected --scale tiny with --quick"),
        (["table1", "--set", "optim.lr=-1"], "optim.lr"),
        (["table4", "--set", "cuda_graph=true"], "timings of table4 and table10 without cuda_gr"),
        (["all", "--quick", "--set", "cuda_graph=true"], "table4 and table10 without cuda_graph"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence_and_exit_2(arguments, words, tmp_path, capsys):
    assert run(*arguments, "--out", tmp_path / "out") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_list_names_each_experiment_with_runs_steps_and_time(tmp_path, capsys):
    assert run("list", "--seeds", "0,1,2", "--out", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1 : 1 + 2 * len(EXPERIMENTS) : 2]]
    assert names == list(EXPERIMENTS)
    (mask,) = (line for line in lines if line.startswith("table5-mask"))
    assert mask.split()[1:5] == ["15", "9,300", "118", "min"]


def test_the_users_steps_stand_against_those_of_the_papers_ablations(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "training_flops", lambda _: 1e12)  # for the time alone
    assert run("list", "--scale", "L", "--set", "steps=100", "--out", tmp_path) == 0
    (mask,) = (each for each in capsys.readouterr().out.splitlines() if "table5-mask" in each)
    assert mask.split()[1:3] == ["5", "500"]


def test_what_is_counted_needs_no_images_and_no_gpu_and_has_a_folder_of_its_scale(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "_work", lambda _: Work(1, 1.0))
    assert run("table2", "--scale", "L", "--out", tmp_path) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["table2-L"]


@pytest.mark.parametrize("name", ["table4", "table10"])
def test_what_is_timed_needs_no_images(name, tmp_path):
    options = command.ReproduceOptions(name=name, scale="L")
    assert len(command._recipe(options, tmp_path).data.class_names) == 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "inception"),
        (["--extractor", "efflite0"], "Expected the weights of VGG16"),
        (["--extractor", "efflite0", "--set", "loss.perceptual=0"], "the weights of DINOv2"),
    ],
    ids=["scores", "distance", "teacher"],
)
def test_missing_weights_are_said_before_anything_is_trained(
    arguments, words, images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("MIMFLOW_WEIGHTS", "GENMETRICS_WEIGHTS", "GENMETRICS_INCEPTION_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "_reproduce", None)
    options = ["--scale", "L", "--data", images, "--device", "cpu", "--out", tmp_path / "out"]
    assert run("table5-mask", *options, *arguments) == 4
    assert words in capsys.readouterr().err


def test_other_images_in_the_same_folder_are_other_runs(images, tmp_path):
    options = command.ReproduceOptions(name="table5-mask", data=str(images))
    first = command._recipe(options, tmp_path)
    assert command._recipe(options, tmp_path) == first
    next((images / "val" / "red").iterdir()).unlink()
    assert command._recipe(options, tmp_path) != first


def test_too_few_images_to_judge_by_are_said_before_anything_is_trained(images, tmp_path, capsys):
    for file in (images / "val" / "red").iterdir():
        file.unlink()
    assert run("table3", "--data", images, "--out", tmp_path / "out") == 3
    assert "Expected at least 4 held-out images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def images(tmp_path):
    """Twelve squares to train on and six to judge, in two classes."""
    root = tmp_path / "images"
    for part, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("blue", "red")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade = (40 * label + 5 * number, 20, 250 - 200 * label - 9 * number)
                Image.new("RGB", (32, 32), shade).save(folder / f"{number}.png")
    return root


def numbers(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report.pop("made")["quick"] is True
    return report


def test_one_row_alone_trains_one_run_and_names_the_rows_left_out(images, tmp_path, capsys):
    arguments = ["table9", "--quick", "--data", images, "--device", "cpu", "--out", tmp_path]
    assert run(*arguments, "--row", "5") == 0
    out, err = capsys.readouterr()
    assert "1 run(s) left to train" in err
    assert re.search(r"^5, seed 0: fd_efflite0 \d+\.\d\d$", err, re.MULTILINE)
    assert "Not run: 1: left out by --row; 10: left out by --row." in out
    assert out.count("**not run**") == 4
    assert len(list((tmp_path / "quick" / "runs").iterdir())) == 1


def test_the_same_command_gives_the_same_numbers(images, tmp_path, capsys):
    arguments = ["table3", "--quick", "--data", images, "--device", "cpu"]
    for out in ("a", "b"):
        assert run(*arguments, "--out", tmp_path / out) == 0
    first, second = (numbers(tmp_path / out / "quick" / "table3") for out in "ab")
    assert first == second
    assert all(len(row["ours"]["gfid"]) == 1 for row in first["rows"])
    assert (tmp_path / "a" / "quick" / "table3" / "table3.png").exists()
    text = capsys.readouterr().out
    assert "QUICK" in text
    assert "mimflow-reproduce table3 --quick" in text


def test_the_autoencoders_are_counted_by_one_counter(images, tmp_path):
    assert run("table2", "--data", images, "--device", "cpu", "--out", tmp_path) == 0
    assert (tmp_path / "table2" / "table2.png").exists()
    report = json.loads((tmp_path / "table2" / "report.json").read_text())
    counted = {row["label"]: row["ours"] for row in report["rows"]}
    assert counted["SD-VAE"]["parameters_m"] == [pytest.approx(83.65, abs=0.01)]
    assert counted["ViT-B encoder and decoder"] == {
        "parameters_m": [pytest.approx(171.9, abs=0.05)],
        "gmac": [pytest.approx(71.25, abs=0.1)],
    }


def test_every_experiment_runs_quick_and_leaves_numbers(tmp_path):
    assert run("all", "--quick", "--device", "cpu", "--out", tmp_path) == 0
    for name in EXPERIMENTS:
        report = numbers(tmp_path / "quick" / name)
        assert any(row["ours"] for row in report["rows"]), name
        assert list((tmp_path / "quick" / name).glob("*.png")), name


def test_runs_are_trained_on_the_cluster_that_is_named(images, tmp_path, monkeypatch):
    trained, joined = [], []

    def run_ray(_config, run_dir, launch, _plan):
        trained.append((run_dir.parent, *launch))
        return signal.SIGINT

    def join_cluster(address):
        joined.append(address)
        return {"CPU": 4.0}

    cluster = SimpleNamespace(run_ray=run_ray, join_cluster=join_cluster)
    monkeypatch.setitem(sys.modules, "mimflow_train.engine.launch_ray", cluster)
    options = ["--data", images, "--out", tmp_path, "--quick", "--device", "cpu"]
    options += ["--set", "global_batch=8", "--set", "micro_batch=0"]
    assert run("table9", *options, "--ray-address", "auto", "--workers", "2-8") == 130
    runs = tmp_path / "quick" / "runs"
    assert trained == [(runs, "ray", "cpu", Workers(2, 8), "auto")]
    assert joined == ["auto"]
    assert run("table9", *options, "--ray-address", "auto", "--workers", "8") == 2
    assert len(trained) == 1
