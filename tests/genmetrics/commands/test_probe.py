import json

import numpy as np
import pytest
import torch

from genmetrics.cli import main
from genmetrics.commands.output import progress_bar
from genmetrics.networks.efflite0 import EffLite0Features


@pytest.fixture
def files(tmp_path):
    """Features at two depths with class centres, and noise; (n, 5) and (n, 3 tokens, 4)."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((3, 5))
    paths = []
    for name, n in (("train", 80), ("val", 41)):
        labels = rng.integers(3, size=n)
        state = (centres[labels] + rng.standard_normal((n, 5))).astype(np.float32)
        noise = rng.standard_normal((n, 3, 4)).astype(np.float16)
        path = tmp_path / f"{name}.npz"
        np.savez(path, labels=labels, state=state, noise=noise)
        paths.append(str(path))
    return paths


def arguments(files, *more):
    return ["probe", "--train", files[0], "--val", files[1], "--device", "cpu", *more]


QUICK = ["--preset", "mimflow-tools", "--epochs", "6"]
FEW_STEPS = (
    "warning: Expected some 7020 steps, as the preset mimflow-tools takes on ImageNet; got 48, so "
    "accuracies may be too low and in another order. Raise --epochs or lower --batch-size."
)


def report_of(capsys, argv):
    assert main(argv) == 0
    return json.loads(capsys.readouterr().out)


def test_all_keys_are_probed_and_named_in_a_table(files, capsys):
    assert main(arguments(files, *QUICK, "--seeds", "0,1", "--knn", "--logistic")) == 0
    out, err = capsys.readouterr()
    head, titles, *rows = out.splitlines()
    assert head.startswith("mimflow-tools: SGD")
    assert "6 epochs, batch 10, 80 rows to train, 41 to test, 3 classes, 2 seeds" in head
    assert titles.split()[:3] == ["%", "dim", "pool"]
    assert titles.split()[-2:] == ["knn", "logistic"]
    assert [row.split()[:3] for row in rows] == [["state", "5", "none"], ["noise", "4", "mean"]]
    assert rows[0].split()[3:6] == ["100.00", "+-", "0.00"]
    assert err.splitlines() == [FEW_STEPS]


def test_json_holds_every_choice(files, capsys):
    report = report_of(capsys, arguments(files, *QUICK, "--knn", "--logistic", "--json", "-"))
    assert report["schema"] == "genmetrics/1"
    assert report["train"] == {"path": files[0], "n": 80}
    assert report["preset"]["optimizer"] == "SGD, momentum 0.9, weight decay 1e-4"
    assert (report["preset"]["epochs"], report["preset"]["batch_size"]) == (6, 10)
    state, noise = (report["probes"][key] for key in ("state", "noise"))
    assert state["final"]["top1"] == {"mean": 1.0, "std": None}
    assert state["std_reason"] == "one seed has no spread"
    assert state["knn"]["k"] == 20
    assert state["knn"]["top1"] == state["logistic"]["top1"] == 1.0
    assert noise["pooling"] == "mean"
    assert noise["final"]["top1"]["mean"] < 0.7
    assert noise["chance"] == pytest.approx(1 / 3)
    assert [run["seed"] for run in noise["runs"]] == [0]


def test_files_of_the_features_command_need_no_keys(files, capsys):
    for path in files:
        arrays = dict(np.load(path))
        ids = np.array([f"{i}.png" for i in range(len(arrays["labels"]))])
        np.savez(path, **arrays, ids=ids, meta="{}")
    report = report_of(capsys, arguments(files, *QUICK, "--json", "-"))
    assert list(report["probes"]) == ["state", "noise"]


def mean_colour(self, images):
    return {"features": torch.nn.functional.pad(images.float().mean(dim=(2, 3)), (0, 1277))}


@pytest.fixture
def coloured(tmp_path, write_images, monkeypatch):
    """Extract features, by a folder for each class, with the mean colour for a network."""
    monkeypatch.setattr(EffLite0Features, "forward", mean_colour)

    def extract(name, channels, through="folder"):
        rng = np.random.default_rng(len(channels))
        for folder, channel in channels.items():
            images = rng.integers(0, 60, (9, 3, 2, 3), dtype=np.uint8)
            images[..., channel] += 150
            write_images(images, f"{name}/{folder}")
        source, out = tmp_path / name, tmp_path / f"{name}.npz"
        if through == "pack":
            assert main(["pack", str(source), str(tmp_path / "packed.npz")]) == 0
            source = tmp_path / "packed.npz"
        argv = ["features", str(source), str(out), "--extractor", "efflite0", "--device", "cpu"]
        assert main(argv) == 0
        return str(out)

    return extract


@pytest.mark.parametrize("through", ["folder", "pack"])
def test_classes_are_matched_by_their_folders(coloured, capsys, through):
    train = coloured("train", {"red": 0, "green": 1, "azure": 2})
    val = coloured("val", {"red": 0, "green": 1}, through)
    capsys.readouterr()
    argv = arguments([train, val], *QUICK, "--batch-size", "9", "--knn", "--logistic", "--json=-")
    (probe,) = report_of(capsys, argv)["probes"].values()
    found = [probe["final"]["top1"]["mean"], probe["knn"]["top1"], probe["logistic"]["top1"]]
    assert found == [1.0, 1.0, 1.0]


def test_a_class_that_was_never_trained_is_refused_with_both_lists(coloured, capsys):
    train = coloured("train", {"red": 0, "azure": 2})
    val = coloured("val", {"rouge": 0, "azure": 2})
    capsys.readouterr()
    assert main(arguments([train, val], *QUICK)) == 3
    told = "Expected the classes of the training features, azure, red; got azure, rouge, where"
    assert told in capsys.readouterr().err


def test_keys_pool_and_batch_are_chosen(files, capsys):
    argv = arguments(files, *QUICK, "--keys", "noise", "--pool", "flatten", "--batch-size", "40")
    report = report_of(capsys, [*argv, "--json", "-"])
    assert list(report["probes"]) == ["noise"]
    assert report["probes"]["noise"]["feature_dim"] == 12
    assert report["preset"]["batch_size"] == 40


def test_few_steps_are_warned_about(files, capsys):
    argv = arguments(files, "--preset", "mae", "--epochs", "11", "--keys", "state", "--json", "-")
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert [w["code"] for w in json.loads(out)["warnings"]] == ["FEW_STEPS"]
    assert "Expected some 7020 steps, as the preset mae takes on ImageNet; got 88, so" in err


@pytest.mark.parametrize("batch", [17, 80])
def test_a_batch_of_one_s_own_keeps_the_number_of_steps(files, capsys, monkeypatch, batch):
    asked, bars = [], []

    def no_epochs(tasks, recipe, seed, length, device):
        asked.append(length)
        raise KeyboardInterrupt

    def bar(total, unit):
        bars.append(total)
        return progress_bar(total, unit)

    monkeypatch.setattr("genmetrics.probes.training._train", no_epochs)
    monkeypatch.setattr("genmetrics.commands.probe.progress_bar", bar)
    assert main(arguments(files, "--batch-size", str(batch))) == 130
    ((epochs, batch_size),) = asked
    assert batch_size == batch
    assert bars == [epochs]
    steps = epochs * (80 // batch)
    assert 7020 <= steps < 7020 + 80 // batch


def test_y_is_another_name_for_labels(files, capsys, tmp_path):
    with np.load(files[0]) as archive:
        np.savez(tmp_path / "y.npz", y=archive["labels"], state=archive["state"])
    renamed = report_of(
        capsys,
        arguments([str(tmp_path / "y.npz"), files[1]], *QUICK, "--keys", "state", "--json=-"),
    )
    plain = report_of(capsys, arguments(files, *QUICK, "--keys", "state", "--json=-"))
    assert renamed["probes"] == plain["probes"]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": np.zeros((4, 2), "f")}, [], "key labels or y in {path}; got x float32 (4, 2)."),
        (
            {"labels": np.zeros(4), "x": np.zeros((4, 2), "f")},
            [],
            "got x float32 (4, 2), labels float64 (4,).",
        ),
        (
            {"labels": np.arange(4), "x": np.zeros((4, 2), int)},
            [],
            "Expected floats of shape (n, d) or (n, t, c) as x in {path}; got x int64 (4, 2)",
        ),
        ({"labels": np.arange(4), "x": np.zeros(4, "f")}, [], "got x float32 (4,)"),
        ({"labels": np.arange(4), "x": np.zeros((3, 2), "f")}, [], "one row of x per label"),
        (
            {"labels": np.arange(4), "x": np.zeros((4, 2), "f")},
            ["--keys", "x,z"],
            "Expected features z in {path}; got labels int64 (4,), x float32 (4, 2).",
        ),
        ({"labels": np.arange(4)}, [], "at least one array"),
        ({"labels": np.arange(4), "x": np.array([{}] * 4)}, [], "allow_pickle=False"),
    ],
    ids=["no labels", "float labels", "ints", "1-d", "count", "absent key", "none", "pickle"],
)
def test_bad_files_exit_3_and_list_what_there_is(files, tmp_path, capsys, arrays, options, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    assert main(arguments([str(path), files[1]], *options)) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert message.format(path=path) in err
    assert err.startswith("genmetrics: Expected ")
    assert err.count("\n") == 1


def test_files_that_are_no_archives_exit_3(files, tmp_path, capsys):
    (tmp_path / "torn.npz").write_bytes(b"PK nothing")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for path in (tmp_path / "torn.npz", tmp_path / "one.npy", tmp_path / "gone.npz"):
        assert main(arguments([files[0], str(path)])) == 3
        assert str(path) in capsys.readouterr().err


def test_two_sets_of_keys_exit_3(files, tmp_path, capsys):
    np.savez(tmp_path / "v.npz", labels=np.arange(3), other=np.zeros((3, 5), "f"))
    assert main(arguments([files[0], str(tmp_path / "v.npz")])) == 3
    assert "got state, noise and other" in capsys.readouterr().err


def test_features_that_are_not_numbers_exit_5(files, tmp_path, capsys):
    x = np.full((80, 5), np.nan, "f")
    np.savez(tmp_path / "nan.npz", labels=np.arange(80) % 3, state=x)
    assert main(arguments([str(tmp_path / "nan.npz"), files[1]], "--keys", "state")) == 5
    assert "training features state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "simclr"], "'simclr'"),
        (["--seeds", "0,x"], "got 'x'"),
        (["--pool", "sum"], "'sum'"),
        (["--epochs", "0"], "at least 1"),
        (["--preset", "mae", "--epochs", "10"], "10 epochs of warm-up"),
        (["--batch-size", "81"], "2 to 80 rows"),
        (["--json", "no/such/folder/x.json"], "existing folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2(files, capsys, more, message):
    try:
        code = main(arguments(files, *more))
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
