import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genmetrics.cli import main
from genmetrics.networks.efflite0 import EFFLITE0_SHA256
from genmetrics.networks.inception import WEIGHTS_FILE, WEIGHTS_VARIABLE


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    for variable in ("GENMETRICS_WEIGHTS", WEIGHTS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def report(capsys):
    assert main(["doctor", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    return document, {weights["network"]: weights for weights in document["weights"]}


def test_versions_and_devices_are_those_of_the_process(capsys):
    document, _ = report(capsys)
    assert document["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert document["versions"]["numpy"] == np.__version__
    assert document["devices"][0] == "cpu"
    assert len(document["devices"]) == 1 + torch.cuda.device_count()


def test_missing_weights_have_a_file_name_a_variable_and_a_command(capsys):
    _, weights = report(capsys)
    assert list(weights) == ["inception", "efflite0", "dinov2", "clip"]
    for name in ("inception", "dinov2", "clip"):
        missing = weights[name]
        assert missing["found"] is missing["sha256"] is None
        assert missing["variable"] in (WEIGHTS_VARIABLE, "GENMETRICS_WEIGHTS")
        assert missing["fix"].startswith("curl -L --create-dirs -o weights/" + missing["file"])
        assert missing["fix"].endswith("export GENMETRICS_WEIGHTS=$PWD/weights")
    assert weights["inception"]["file"] == WEIGHTS_FILE
    assert weights["efflite0"]["sha256"] == EFFLITE0_SHA256
    assert weights["efflite0"]["fix"] is None


def test_the_command_puts_the_file_where_it_is_found(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETRICS_WEIGHTS", str(tmp_path / "w"))
    for name in ("inception", "dinov2", "clip"):
        _, weights = report(capsys)
        target = weights[name]["fix"].split()[4]
        (tmp_path / "w").mkdir(exist_ok=True)
        Path(target).write_bytes(b"weights")  # in place of curl
        _, weights = report(capsys)
        assert weights[name]["found"] == target


def test_wrong_inception_weights_are_found_but_to_be_fixed(capsys, monkeypatch, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "other.pth"))
    _, weights = report(capsys)
    assert weights["inception"]["found"] == str(tmp_path / "other.pth")
    assert weights["inception"]["fix"].startswith("curl")
    assert main(["doctor"]) == 0
    assert "expected sha256 6726825d..." in capsys.readouterr().out


def test_table_names_every_network_and_its_fix(capsys):
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out
    for text in (
        "torch ",
        "device ",
        f"missing: {WEIGHTS_FILE} (sha256 6726825d..., {WEIGHTS_VARIABLE})",
        "fix: curl",
        "sha256 57934424",
    ):
        assert text in table


def test_nothing_is_downloaded(capsys, monkeypatch):
    calls = []

    def download(repository, name, *, local_files_only):
        calls.append(local_files_only)
        raise OSError("absent")

    monkeypatch.delenv("GENMETRICS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    report(capsys)
    assert calls
    assert all(calls)


def test_help_imports_no_torch():
    program = "import sys; from genmetrics.cli import main\ntry: main(['doctor', '--help'])\n"
    program += "except SystemExit: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
