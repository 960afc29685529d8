import json
import os
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch

from genmetrics.cli import main

EFFLITE0 = ["--extractor", "efflite0", "--device", "cpu"]


@pytest.fixture
def folders(emoji, write_images):
    return str(write_images(emoji[:6], "samples")), str(write_images(emoji[6:24], "real"))


@pytest.fixture(autouse=True)
def no_inception_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("GENMETRICS_INCEPTION_WEIGHTS", raising=False)


def fails(capsys, argv, code):
    """Run, and return the one sentence on stderr."""
    try:
        found = main(argv)
    except SystemExit as stop:  # argparse's way out
        found = stop.code
    assert found == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_fid_prints_the_score_and_the_floor(folders, capsys):
    assert main(["fid", *folders, *EFFLITE0]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("fd_efflite0")
    assert lines[0].endswith("6 samples, 18 reference images")
    assert lines[1].endswith("samples against reference, 6 each")
    assert lines[2].endswith("reference against reference, 6 each")
    assert "fid" not in out
    assert "same N" in err


def test_eval_gives_the_same_numbers_as_fid_in_json(folders, capsys):
    assert main(["fid", *folders, *EFFLITE0, "--json", "-"]) == 0
    fid = json.loads(capsys.readouterr().out)
    samples, real = folders
    assert main(["eval", samples, "--ref", real, "--metrics", "fid", *EFFLITE0, "--json", "-"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["metrics"] == fid["metrics"]
    assert judged["schema"] == "genmetrics/1"
    judged_set = judged["samples"]
    assert (judged_set["path"], judged_set["kind"], judged_set["n"]) == (samples, "folder", 6)
    assert judged_set["fingerprint"] != judged["reference"]["fingerprint"]
    assert judged["reference"]["n"] == 18
    assert judged["extractor"]["weights_sha256"].startswith("579344")
    assert judged["command"][:2] == ["genmetrics", "eval"]
    assert [w["code"] for w in judged["warnings"]] == ["RANK_DEFICIENT"]
    score = judged["metrics"]["fd_efflite0"]
    assert score["value"] == pytest.approx(score["mean_term"] + score["covariance_term"])
    assert (score["n_samples"], score["n_ref"], score["floor"]["n"]) == (6, 18, 6)
    assert score["at_equal_count"]["n"] == 6


def test_a_batch_that_does_not_fit_is_told_in_a_sentence(folders, capsys, monkeypatch):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("genmetrics.networks.efflite0.EffLite0Features.forward", full)
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8.00 GiB."
    )
    assert fails(capsys, ["fid", *folders, *EFFLITE0], 2).endswith(
        "genmetrics: Expected room for a batch on the device; got 'CUDA out of memory. Tried to "
        "allocate 2.50 GiB'. Give a smaller --batch-size (of probe it is part of the "
        "recipe), or --device cpu.\n"
    )
    error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        main(["fid", *folders, *EFFLITE0])


def test_a_set_against_itself_scores_zero(folders, capsys):
    assert main(["fid", folders[0], folders[0], *EFFLITE0, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["fd_efflite0"]["value"] < 1e-9


def test_json_file_comes_beside_the_table(folders, capsys, tmp_path):
    assert main(["fid", *folders, *EFFLITE0, "--json", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out.startswith("fd_efflite0")
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["fd_efflite0"]["n_ref"] == 18


def test_small_reference_is_said_and_scored_at_its_count(folders, capsys):
    samples, real = folders
    assert main(["fid", real, samples, *EFFLITE0, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    score = report["metrics"]["fd_efflite0"]
    assert score["floor"]["n"] == score["at_equal_count"]["n"] == 3
    assert "SMALL_REFERENCE" in [w["code"] for w in report["warnings"]]


def test_without_four_references_there_is_no_floor(folders, emoji, write_images, capsys):
    few = str(write_images(emoji[:3], "few"))
    assert main(["fid", folders[0], few, *EFFLITE0, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["fd_efflite0"]["floor"] is None
    assert "NO_FLOOR" in [w["code"] for w in report["warnings"]]


def test_limit_draws_by_seed(folders, capsys):
    values = []
    for seed in ("0", "0", "1"):
        options = ["--limit", "4", "--seed", seed, "--json", "-"]
        assert main(["fid", *folders, *EFFLITE0, *options]) == 0
        score = json.loads(capsys.readouterr().out)["metrics"]["fd_efflite0"]
        assert (score["n_samples"], score["n_ref"]) == (4, 4)
        values.append(score["value"])
    assert values[0] == values[1] != values[2]


def test_seed_draws_the_floor(folders, capsys):
    floors = []
    for seed in ("0", "1"):
        assert main(["fid", *folders, *EFFLITE0, "--seed", seed, "--json", "-"]) == 0
        floors.append(json.loads(capsys.readouterr().out)["metrics"]["fd_efflite0"]["floor"])
    assert floors[0] != floors[1]


def test_batch_size_is_that_of_the_network(folders, capsys, monkeypatch):
    from genmetrics.networks.efflite0 import EffLite0Features

    sizes = []

    def forward(self, images):
        sizes.append(len(images))
        return {"features": images.float().mean(dim=(2, 3)).repeat(1, 427)[:, : self.dim]}

    monkeypatch.setattr(EffLite0Features, "forward", forward)
    assert main(["fid", *folders, *EFFLITE0, "--batch-size", "5"]) == 0
    assert sizes == [5, 1, 5, 5, 5, 3]


def test_recursive_reads_deeper_folders(folders, emoji, write_images, capsys):
    write_images(emoji[30:33], "samples/deep/er")
    counts = []
    for options in ([], ["--recursive"]):
        assert main(["fid", *folders, *EFFLITE0, *options, "--json", "-"]) == 0
        counts.append(json.loads(capsys.readouterr().out)["samples"]["n"])
    assert counts == [6, 9]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required"),
        (["judge"], "invalid choice: 'judge'"),
        (["fid", "a"], "required: B"),
        (["eval", "a"], "required: --ref"),
        (["eval", "a", "--ref", "b", "--metrics", "kids"], "got 'kids'. Did you mean kid?"),
        (["eval", "a", "--ref", "b", "--metrics", ","], "at least one metric; got none"),
        (["eval", "a", "--ref", "b", "--protocol", "adn"], "got 'adn'. Did you mean adm?"),
        (
            ["eval", "a", "--ref", "b", "--protocol", "adm", "--extractor", "efflite0"],
            "--extractor inception with --protocol adm; got efflite0",
        ),
        (["fid", "a", "b", "--extractor", "vgg"], "'vgg'"),
        (["fid", "a", "b", "--batch-size", "0"], "at least 1; got '0'"),
        (["fid", "a", "b", "--limit", "-3"], "--limit"),
        (["fid", "a", "b", "--seed", "x"], "from 0 to 2^63; got 'x'"),
        (["fid", "a", "b", "--device", "tpu"], "got 'tpu'"),
        (
            ["fid", "a", "b", "--dev", "cpu"],
            "unrecognized arguments: --dev cpu. Did you mean --device?",
        ),
        (["fid", "a", "b", "--xyz"], "unrecognized arguments: --xyz.\n"),
        (["eval", "a", "--ref", "b", "--metric", "kid"], "Did you mean --metrics?"),
        (["fid", "a", "b", "--json", "no/such/folder/x.json"], "existing folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2(capsys, argv, message):
    assert message in fails(capsys, argv, 2)


@pytest.mark.parametrize(
    "argv", [["eval", ""], ["eval", "a", "--ref", ""], ["eval", "a", "--ref="]]
)
def test_empty_arguments_exit_2(capsys, argv):
    error = fails(capsys, argv, 2)
    assert "got an empty one. Is a variable of the shell not set?" in error


def test_absent_cuda_device_exits_2(folders, capsys):
    error = fails(capsys, ["fid", *folders, "--extractor", "efflite0", "--device", "cuda:99"], 2)
    assert error.startswith("genmetrics: Expected one of the CUDA devices")
    assert error.count("\n") == 1


def test_bad_images_exit_3(folders, emoji, write_images, capsys, tmp_path):
    samples, real = folders
    np.savez(tmp_path / "float.npz", np.zeros((2, 4, 4, 3)))
    (tmp_path / "empty").mkdir()
    one = str(write_images(emoji[:1], "one"))
    torn = write_images(emoji[:5], "torn")
    (torn / "3.png").write_bytes(b"no image")
    for path, message in [
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "empty", "got no files"),
        (tmp_path / "float.npz", "got float64"),
        (one, "at least 2 images"),
        (torn, "3.png"),
    ]:
        for pair in ([samples, str(path)], [str(path), real]):
            error = fails(capsys, ["fid", *pair, *EFFLITE0], 3)
            assert error.startswith("genmetrics: Expected ")
            assert message in error
            assert error.count("\n") == 1


def test_missing_weights_exit_4_before_any_image_is_read(folders, write_images, emoji, capsys):
    torn = write_images(emoji[:2], "torn")
    (torn / "0.png").write_bytes(b"no image")
    error = fails(capsys, ["eval", folders[0], "--ref", str(torn)], 4)
    assert "--extractor efflite0" in error
    assert error.count("\n") == 1


def test_numerical_failure_exits_5(folders, capsys, monkeypatch):
    import torch

    from genmetrics.networks.efflite0 import EffLite0Features

    def nan(self, images):
        return {"features": torch.full((len(images), self.dim), float("nan"))}

    monkeypatch.setattr(EffLite0Features, "forward", nan)
    error = fails(capsys, ["fid", *folders, *EFFLITE0], 5)
    assert "6 of 6 rows (0, 1, 2, 3, 4, ...)" in error
    assert error.count("\n") == 1


def test_unwritable_json_exits_2(folders, capsys, tmp_path):
    (tmp_path / "taken").mkdir()
    error = fails(capsys, ["fid", *folders, *EFFLITE0, "--json", str(tmp_path / "taken")], 2)
    assert "writable --json file" in error


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"genmetrics {version('genmetrics')}\n"


@pytest.fixture
def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("argv", [["protocols"], ["protocols", "--json", "-"], ["--help"]])
def test_a_reader_that_is_gone_is_no_error(argv, broken_pipe, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-m", "genmetrics", *argv]
    done = subprocess.run(command, stdout=broken_pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_of_errors_that_is_gone_is_no_error(broken_pipe):
    command = [sys.executable, "-m", "genmetrics", "compare", "/no", "/where"]
    done = subprocess.run(command, stdout=broken_pipe, stderr=broken_pipe, check=False)
    assert done.returncode == 141


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.process_time()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    return done, time.process_time() - started


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["eval", "--help"], 0),
        (["fid", "a"], 2),
        (["fid", "/no", "/where"], 3),
    ],
    ids=["help", "version", "eval help", "usage", "missing"],
)
def test_what_needs_no_torch_does_not_import_it(argv, code):
    program = (
        "import sys; from genmetrics.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "sys.exit(code)"
    )
    done, _ = python("-c", program, *argv)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_importing_genmetrics_imports_no_torch():
    program = (
        "import sys, genmetrics\n"
        "from genmetrics import WeightsUnavailable, open_images\n"
        "assert 'torch' not in sys.modules"
    )
    done, _ = python("-c", program)
    assert done.returncode == 0, done.stderr


def test_module_runs_as_a_command_and_stdout_is_the_result_only(folders):
    done, _ = python("-m", "genmetrics", "fid", *folders, *EFFLITE0, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"].keys() == {"fd_efflite0"}
    assert done.stderr.startswith("warning: ")
