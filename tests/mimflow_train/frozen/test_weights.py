import hashlib

import pytest
import torch
from safetensors.torch import save_file

from mimflow_train.errors import WeightsError
from mimflow_train.frozen.weights import (
    PretrainedFile,
    find_weights,
    hub_file,
    loading,
    read_tensors,
    weights_status,
)

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OFFLINE = {"MIMFLOW_OFFLINE": "1"}


def no_download():
    raise AssertionError


def wanted(sha256=SHA256[:8], download=no_download):
    return PretrainedFile(
        network="Net",
        name="net.pth",
        url="https://example.org/a.pth",
        sha256=sha256,
        term="loss.feature",
        download=download,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    return path


def test_the_folder_comes_before_the_download(file):
    assert find_weights(wanted(), environment={"MIMFLOW_WEIGHTS": str(file.parent)}) == file


def test_the_download_comes_last(file, tmp_path):
    empty = {"MIMFLOW_WEIGHTS": str(tmp_path / "empty")}
    assert find_weights(wanted(download=lambda: file), environment=empty) == file


@pytest.mark.parametrize("variable", ["MIMFLOW_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_downloaded(variable):
    with pytest.raises(WeightsError, match=f"{variable}=1"):
        find_weights(wanted(), environment={variable: "1"})


@pytest.mark.parametrize(("value", "is_offline"), [("true", True), ("0", False), ("off", False)])
def test_offline_is_meant_as_the_hub_means_it(value, is_offline, file):
    environment = {"HF_HUB_OFFLINE": value}
    if is_offline:
        with pytest.raises(WeightsError, match="HF_HUB_OFFLINE=true"):
            find_weights(wanted(download=lambda: file), environment=environment)
    else:
        assert find_weights(wanted(download=lambda: file), environment=environment) == file


def test_the_error_names_file_digest_folder_source_and_way_out():
    with pytest.raises(WeightsError) as caught:
        find_weights(wanted(), environment=OFFLINE)
    parts = ["Net, net.pth", f"sha256 {SHA256[:8]}", "MIMFLOW_WEIGHTS", "https://example.org/a.pth"]
    assert [part for part in [*parts, "loss.feature=0"] if part not in str(caught.value)] == []
    assert caught.value.exit_code == 4


def test_another_digest_is_refused(file):
    with pytest.raises(WeightsError, match=f"has sha256 {SHA256}"):
        find_weights(wanted(sha256="0000"), {"MIMFLOW_WEIGHTS": str(file.parent)})


def test_an_unknown_digest_is_not_checked(file):
    assert find_weights(wanted(sha256=""), {"MIMFLOW_WEIGHTS": str(file.parent)}) == file


def test_status_says_where_weights_are_or_would_come_from(file):
    assert weights_status(wanted(), {"MIMFLOW_WEIGHTS": str(file.parent)}) == f"in {file}"
    assert weights_status(wanted(), {}).startswith("to be downloaded from https://example.org")
    missing = weights_status(wanted(), OFFLINE)
    assert missing.startswith("missing: save https://example.org/a.pth as net.pth")


def test_a_failed_download_is_one_error():
    def download():
        raise OSError("no route")

    with pytest.raises(WeightsError, match="the download failed: no route"):
        find_weights(wanted(download=download), environment={})


def test_hub_file_fetches_once_and_checks(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    got = hub_file(file.as_uri(), SHA256[:8])
    assert got.read_bytes() == CONTENT
    file.unlink()
    assert hub_file(file.as_uri(), SHA256[:8]) == got


def test_hub_file_refuses_another_digest(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(RuntimeError, match="invalid hash"):
        hub_file(file.as_uri(), "0000")
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []


def test_both_formats_give_the_same_tensors(tmp_path):
    state = {"a": torch.arange(3.0)}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert torch.equal(read_tensors(tmp_path / name)["a"], state["a"])


def test_a_file_of_other_content_is_one_error(file):
    with pytest.raises(WeightsError, match=r"weights of Net in .*net\.pth"), loading("Net", file):
        read_tensors(file)
