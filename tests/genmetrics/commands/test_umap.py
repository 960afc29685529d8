import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genmetrics.cli import main


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "f.npz", **arrays)
        return str(tmp_path / "f.npz")

    return write


def clusters(n=60, d=5, classes=6):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, d)).astype("f4") + 9 * np.eye(classes, d)[labels], labels


def drawn(monkeypatch):
    """Record what is drawn instead of drawing it."""
    import genmetrics.plots

    calls = []
    monkeypatch.setattr(
        genmetrics.plots, "plot_latents", lambda xy, _, *, labels, **__: calls.append((xy, labels))
    )
    return calls


def test_a_picture_is_written_and_described(save, tmp_path, capsys):
    features, labels = clusters()
    out = tmp_path / "plot.png"
    path = save(features=features, labels=labels)
    assert main(["umap", path, "--out", str(out), "--method", "pca"]) == 0
    assert capsys.readouterr().out == f"{out}: 60 samples, 6 classes\n"
    with Image.open(out) as image:
        assert image.size[0] > 900


def test_the_title_says_n_and_the_legend_the_folders_of_the_images(save, tmp_path):
    features, labels = clusters(n=14, classes=2)
    ids = np.array([f"{('cat', 'dog')[label]}/{i}.png" for i, label in enumerate(labels)])
    out = tmp_path / "plot.svg"
    path = save(features=features, labels=labels, ids=ids)
    assert main(["umap", path, "--out", str(out), "--method", "pca"]) == 0
    for text in ("PCA of 14 samples, 2 classes", "cat", "dog"):
        assert f"<!-- {text} -->" in out.read_text()


def test_features_of_several_outputs_are_drawn_by_the_main_one(save, tmp_path, monkeypatch, capsys):
    features, labels = clusters()
    calls = drawn(monkeypatch)
    others = {"spatial": features[:, :2], "ids": np.array([*map(str, range(60))])}
    meta = json.dumps({"extractor": {"main_output": "pool3"}})
    pictures = []
    for arrays in ({"pool3": features}, {**others, "pool3": features, "meta": meta}):
        path = save(**arrays, labels=labels)
        assert main(["umap", path, "--out", str(tmp_path / "p.png"), "--method", "pca"]) == 0
        pictures.append(calls[-1][0])
    assert torch.equal(*pictures)
    capsys.readouterr()
    save(**others, a=features, labels=labels, meta="{}")
    assert main(["umap", path, "--out", str(tmp_path / "p.png")]) == 2
    assert "got spatial, a. Choose one by --key" in capsys.readouterr().err


def test_classes_are_chosen_by_the_seed(save, tmp_path, monkeypatch, capsys):
    features, labels = clusters()
    path, calls = save(features=features, y=labels), drawn(monkeypatch)
    for seed in ("0", "0", "3"):
        options = ["--classes", "2", "--seed", seed, "--out", str(tmp_path / "x.png")]
        assert main(["umap", path, "--method", "pca", *options]) == 0
    chosen = [sorted(set(labels.tolist())) for _, labels in calls]
    assert len(chosen[0]) == 2
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(calls[0][0]) == 20
    assert "20 samples, 2 classes" in capsys.readouterr().out


def test_tokens_are_one_row_per_sample(save, tmp_path, monkeypatch):
    z = np.random.default_rng(0).normal(size=(7, 4, 3))
    path, calls = save(z=z), drawn(monkeypatch)
    assert main(["umap", path, "--method", "pca", "--out", str(tmp_path / "x.png")]) == 0
    from genmetrics.projection import project

    ((xy, labels),) = calls
    assert labels is None
    expected = project(torch.from_numpy(z).reshape(7, 12).float(), method="pca")
    assert torch.equal(xy, expected)


def test_umap_is_the_default_and_gets_the_options(save, tmp_path, monkeypatch):
    from types import SimpleNamespace

    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, rows, labels):
            asked["labels"] = labels
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    calls = drawn(monkeypatch)
    features, labels = clusters()
    path = save(features=features.astype("f4"), labels=labels)
    options = ["--neighbors", "4", "--seed", "9", "--out", str(tmp_path / "x.png")]
    assert main(["umap", path, *options]) == 0
    assert (asked["n_neighbors"], asked["random_state"], asked["labels"]) == (4, 9, None)
    assert calls[0][1].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("arrays", "options", "code", "message"),
    [
        ({"a": np.zeros((3, 2)), "b": np.zeros((3, 2))}, [], 2, "a, b. Choose one by --key"),
        ({"a": np.zeros((3, 2))}, ["--key", "c"], 3, "an array c"),
        ({"a": np.zeros((3, 2), "i4")}, [], 3, "got int32"),
        ({"a": np.zeros(3)}, [], 3, "shape (3,)"),
        ({"a": np.full((3, 2), np.nan)}, [], 3, "finite"),
        ({"a": np.ones((3, 2)), "labels": np.zeros(2, "i8")}, [], 3, "3 whole numbers"),
        ({"a": np.ones((3, 2)), "labels": np.zeros(3)}, [], 3, "got float64"),
        ({"a": np.ones((3, 2)), "labels": np.array([0, "x", {}], object)}, [], 3, "objects"),
        ({"a": np.ones((1, 2))}, [], 3, "at least 2 rows"),
        ({"a": np.ones((3, 2))}, ["--out", "no/such/x.png"], 2, "existing folder"),
        ({"a": np.ones((3, 2))}, ["--classes", "0"], 2, "at least 1"),
        ({"a": np.ones((3, 2))}, ["--method", "umap", "--neighbors", "1"], 2, "at least 2; got 1"),
    ],
)
def test_bad_input_is_one_sentence(save, tmp_path, capsys, arrays, options, code, message):
    argv = ["umap", save(**arrays), "--method", "pca", "--out", str(tmp_path / "x.png"), *options]
    try:
        found = main(argv)
    except SystemExit as stop:
        found = stop.code
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert message in err
    assert not (tmp_path / "x.png").exists()


def test_a_missing_matplotlib_is_told_before_the_work(save, tmp_path, monkeypatch, capsys):
    import genmetrics.projection

    monkeypatch.setattr(genmetrics.projection, "project", lambda *_, **__: pytest.fail("projected"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    argv = ["umap", save(a=np.ones((3, 2))), "--out", str(tmp_path / "x.png")]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Expected the package matplotlib" in err


def test_files_that_are_no_npz_are_refused(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no zip")
    np.save(tmp_path / "bare.npy", np.zeros((3, 2)))
    for name in ("text.npz", "bare.npy", "gone.npz"):
        assert main(["umap", str(tmp_path / name), "--out", str(tmp_path / "x.png")]) == 3
        err = capsys.readouterr().err
        assert err.startswith("genmetrics: Expected an .npz file")
        assert err.count("\n") == 1


def test_damaged_names_of_images_are_refused(save, tmp_path, capsys):
    features, labels = clusters(n=7, classes=2)
    path = Path(save(features=features, labels=labels, ids=np.array(["cat/0.png"] * 7)))
    path.write_bytes(path.read_bytes().replace("cat".encode("utf-32-le"), b"\0" * 12, 1))
    assert main(["umap", str(path), "--method", "pca", "--out", str(tmp_path / "x.png")]) == 3
    err = capsys.readouterr().err
    assert err.startswith("genmetrics: Expected an .npz file of arrays")
    assert "Bad CRC-32 for file 'ids.npy'" in err
    assert not (tmp_path / "x.png").exists()
