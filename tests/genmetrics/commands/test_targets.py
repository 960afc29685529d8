"""No command writes over its inputs, or over a file of another kind."""

import os
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from genmetrics.cli import main
from genmetrics.networks.efflite0 import EffLite0Features

FAST = ["--extractor", "efflite0", "--device", "cpu"]


def mean_colour(self, images):
    return {"features": torch.nn.functional.pad(images.float().mean(dim=(2, 3)), (0, 1277))}


@pytest.fixture(scope="module")
def shared_files(write_shared_images):
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    shared = write_shared_images(images, "folder").parent
    write_shared_images(images[::-1] // 2, "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EffLite0Features, "forward", mean_colour)
        patch.chdir(shared)
        for argv in (
            ["pack", "folder", "images.npz"],
            ["features", "folder", "features.npz", *FAST],
            ["stats", "build", "folder", "statistics.npz", *FAST],
            ["stats", "build", "other", "more.npz", *FAST],
        ):
            assert main(argv) == 0
        np.savez("fid.npz", mu=np.zeros(3), sigma=np.eye(3))
        np.savez("arrays.npz", x=np.zeros(3))
        Path("text.npz").write_text("notes")
    return shared


@pytest.fixture
def files(shared_files, tmp_path, monkeypatch):
    """One file of every kind, and how it is made from images or another file."""
    monkeypatch.setattr(EffLite0Features, "forward", mean_colour)
    monkeypatch.chdir(tmp_path)
    return copytree(shared_files, tmp_path, dirs_exist_ok=True)


WRITERS = {
    "images": ["pack", "folder"],
    "features": ["features", "folder", *FAST],
    "statistics": ["stats", "build", "folder", *FAST],
}
OTHERS = {
    "fid": "statistics of another tool",
    "arrays": "other arrays",
    "text": "something else",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_another_kind_is_not_replaced_and_named(files, capsys, kind):
    for name, found in ({each: each for each in WRITERS} | OTHERS).items():
        target, before = files / f"{name}.npz", (files / f"{name}.npz").read_bytes()
        code = main([*WRITERS[kind], target.name])
        if name == kind:
            assert code == 0
            continue
        error = capsys.readouterr().err
        assert (code, target.read_bytes()) == (2, before)
        assert f"to be new, or {kind} to replace; got {name}.npz, which holds {found}." in error


@pytest.mark.parametrize(
    "argv",
    [
        ["pack", "images.npz", "images.npz"],
        ["features", "images.npz", "images.npz", *FAST],
        ["stats", "build", "images.npz", "images.npz", *FAST],
        ["stats", "merge", "more.npz", "statistics.npz", "more.npz", "--replace"],
    ],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_what_is_read_is_not_written(files, capsys, argv):
    before = {path: path.read_bytes() for path in files.glob("*.npz")}
    assert main(argv) == 2
    assert "to be another file than what is read" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in files.glob("*.npz")}


@pytest.mark.parametrize(
    "argv",
    [
        ["eval", "images.npz", "--ref", "folder", *FAST],
        ["fid", "statistics.npz", "more.npz"],
        ["stats", "info", "statistics.npz"],
        ["probe", "--train", "features.npz", "--val", "features.npz"],
        ["recon", "folder", "folder"],
        ["doctor"],
        ["protocols"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_report_replaces_nothing_but_a_report(files, capsys, argv):
    before = (files / "images.npz").read_bytes()
    assert main([*argv, "--json", "images.npz"]) == 2
    assert "--json to be new, or a report to replace; got images.npz" in capsys.readouterr().err
    assert (files / "images.npz").read_bytes() == before


def test_a_report_replaces_no_json_of_others_and_nothing_that_is_read(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    others = {"a.json": '{"a": 1}', "b.json": '{"command": "train"}', "c.json": '{"command": []}'}
    for name, text in others.items():
        Path(name).write_text(text)
        assert main(["protocols", "--json", name]) == 2
        assert f"got {name}, which holds something else" in capsys.readouterr().err
        assert Path(name).read_text() == text
    assert main(["protocols", "--json", "report.json"]) == 0
    assert main(["protocols", "--json", "report.json"]) == 0
    before = Path("report.json").read_text()
    jacobian = ["jacobian", "--model", "m:f", "--latents", "z.npz", "--plot", "p.png"]
    capsys.readouterr()
    for argv in (
        ["compare", "report.json", "x.json"],
        ["compare", "x.json", "report.json"],
        [*jacobian, "--beside", "report.json"],
    ):
        assert main([*argv, "--json", "./report.json"]) == 2
        assert "--json to be another file than what is read; got report.json as both" in (
            capsys.readouterr().err
        )
        assert Path("report.json").read_text() == before


def test_a_report_that_cannot_be_written_leaves_the_table(tmp_path, capsys, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    assert main(["protocols"]) == 0
    table = capsys.readouterr().out
    monkeypatch.setattr(Path, "write_text", full)
    assert main(["protocols", "--json", str(tmp_path / "p.json")]) == 2
    out, err = capsys.readouterr()
    assert out == table
    assert "Expected a writable --json file; got [Errno 28] No space left on device" in err


@pytest.mark.parametrize(
    ("argv", "place"),
    [
        (["fid", "images.npz", "folder", *FAST, "--json", "report.json"], "--json"),
        (["features", "folder", "new.npz", *FAST], "OUT"),
    ],
    ids=["report", "arrays"],
)
def test_a_folder_that_is_read_only_is_refused_before_the_work(
    files, capsys, monkeypatch, argv, place
):
    (files / "old.json").write_text('{"command": ["genmetrics", "doctor"]}')
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != files)
    capsys.readouterr()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"Expected {place} where this user may write; got " in err
    assert main(["doctor", "--json", "old.json"]) in (0, 4)  # the file itself may be written


def test_images_are_not_converted_in_place(files, capsys):
    np.savez("both.npz", arr_0=np.zeros((2, 3, 3, 3), np.uint8), mu=np.zeros(3), sigma=np.eye(3))
    assert main(["stats", "convert", "both.npz", "both.npz"]) == 2
    assert "to be another file" in capsys.readouterr().err
    assert main(["stats", "convert", "fid.npz", "fid.npz", "--n", "7"]) == 0


def test_a_forgotten_target_of_merge_is_no_loss(files, capsys):
    before = (files / "more.npz").read_bytes()
    assert main(["stats", "convert", "statistics.npz", "part.npz"]) == 0
    argv = ["stats", "merge", "part.npz", "statistics.npz", "more.npz"]
    assert main([*argv, "--force"]) == 2
    assert "the last argument; got more.npz, which is there" in capsys.readouterr().err
    assert (files / "more.npz").read_bytes() == before
    assert main([*argv, "--force", "--replace"]) == 0
    assert (files / "more.npz").read_bytes() != before


@pytest.mark.parametrize("pair", [("features", "features"), ("images", "features")])
def test_features_in_place_of_images_are_called_so(files, capsys, pair):
    assert main(["fid", *(f"{name}.npz" for name in pair), *FAST]) == 3
    error = capsys.readouterr().err
    assert "got features in features.npz. Pass the images that they are of" in error
    assert "frechet_distance_from_features" in error
