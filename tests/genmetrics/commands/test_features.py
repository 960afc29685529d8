import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from genmetrics import extract_features, get_extractor, open_images
from genmetrics.cli import main

EFFLITE0 = ["--extractor", "efflite0", "--device", "cpu"]


@pytest.fixture
def folder(emoji, write_images):
    write_images(emoji[:3], "classes/b")
    return write_images(emoji[3:5], "classes/a").parent


def test_features_ids_labels_and_provenance_are_written(folder, tmp_path, capsys):
    out = tmp_path / "x.npz"
    assert main(["features", str(folder), str(out), *EFFLITE0, "--json", "-"]) == 0
    source, extractor = open_images(folder), get_extractor("efflite0")
    with np.load(out, allow_pickle=False) as stored:
        assert sorted(stored.files) == ["features", "ids", "labels", "meta"]
        torch.testing.assert_close(
            torch.from_numpy(stored["features"]), extract_features(source, extractor)
        )
        assert stored["ids"].tolist() == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"]
        assert stored["labels"].tolist() == [0, 0, 1, 1, 1]
        meta = json.loads(str(stored["meta"]))
    printed = json.loads(capsys.readouterr().out)
    assert meta.items() <= printed.items()
    assert meta["extractor"]["weights_sha256"] == extractor.weights_sha256
    assert meta["source"]["fingerprint"] == source.fingerprint()
    assert meta["source"]["n"] == 5
    assert meta["extractor"]["outputs"] == {"features": 1280}


def test_arrays_have_places_as_ids_and_no_labels(emoji, tmp_path, capsys):
    np.savez(tmp_path / "images.npz", emoji[:3])
    assert main(["features", str(tmp_path / "images.npz"), str(tmp_path / "x.npz"), *EFFLITE0]) == 0
    with np.load(tmp_path / "x.npz") as stored:
        assert stored["ids"].tolist() == ["0", "1", "2"]
        assert "labels" not in stored.files
    assert capsys.readouterr().out.splitlines()[0].split() == ["features", "3", "x", "1280"]


@pytest.mark.parametrize("by", ["option", "variable"])
def test_cache_of_the_option_or_the_variable_is_used(folder, tmp_path, monkeypatch, by):
    argv = ["features", str(folder), str(tmp_path / "x.npz"), *EFFLITE0, "--batch-size", "2"]
    if by == "option":
        argv += ["--cache", str(tmp_path / "cache")]
    else:
        monkeypatch.setenv("GENMETRICS_CACHE", str(tmp_path / "cache"))
    passes = []
    from genmetrics.networks.efflite0 import EffLite0Features

    forward = EffLite0Features.forward
    monkeypatch.setattr(
        EffLite0Features, "forward", lambda self, x: passes.append(len(x)) or forward(self, x)
    )
    for _ in range(2):
        assert main(argv) == 0
    assert passes == [2, 2, 1]


def test_options_reach_the_extraction(folder, tmp_path, monkeypatch):
    from genmetrics.features import extraction as features

    seen = {}
    extract = features.extract

    def spy(source, extractor, **options):
        seen.update(options)
        return extract(source, extractor, **options)

    monkeypatch.setattr(features, "extract", spy)
    argv = ["features", str(folder), str(tmp_path / "x.npz"), "--extractor", "efflite0"]
    assert main([*argv, "--device", "cpu,cpu", "--workers", "2", "--processes"]) == 0
    assert seen["devices"] == ("cpu", "cpu")
    assert (type(seen["workers"]).__name__, seen["workers"].count) == ("Processes", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--extractor", "incepton"], "Did you mean inception?"),
        (["--extractor", "timm:"], "timm:NAME"),
        (["--device", "cpu,auto"], "auto alone"),
        (["--device", "cpu,tpu"], "'tpu'"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_usage_errors_exit_2_without_torch(tmp_path, options, message):
    program = (
        "import sys; from genmetrics.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "sys.exit(code)"
    )
    argv = ["features", str(tmp_path), str(tmp_path / "x.npz"), *options]
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_a_target_that_is_no_npz_or_has_no_folder_exits_2(folder, tmp_path, capsys):
    for target in (tmp_path / "x.pt", tmp_path / "no" / "x.npz"):
        assert main(["features", str(folder), str(target), *EFFLITE0]) == 2
        assert str(target) in capsys.readouterr().err
