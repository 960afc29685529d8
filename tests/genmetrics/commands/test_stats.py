import json

import numpy as np
import pytest
import torch

from genmetrics import frechet_distance, frechet_distance_from_features, get_extractor, open_images
from genmetrics.cli import main
from genmetrics.features.extraction import extract
from genmetrics.features.stats import GaussianStats, StatsAccumulator
from genmetrics.features.stats_files import load_stats, save_stats
from genmetrics.networks.feature_network import FeatureNetwork

EFFLITE0 = ["--extractor", "efflite0", "--device", "cpu"]
SETS = {"a": slice(0, 9), "b": slice(9, 21)}


@pytest.fixture(autouse=True)
def no_inception_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("GENMETRICS_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.delenv("GENMETRICS_WEIGHTS", raising=False)


@pytest.fixture
def quick(monkeypatch):
    """A network of seven numbers in place of the real one."""
    from genmetrics.networks import efflite0

    class Seven(FeatureNetwork):
        outputs = {"features": 7}  # noqa: RUF012  # read only
        preprocess_id, weights_sha256, classifier = "none", "abc", None

        def __init__(self, weights=None):
            super().__init__()

        def forward(self, images):
            cells = torch.nn.functional.adaptive_avg_pool2d(images.float() / 64, (2, 2))
            return {"features": cells.flatten(1)[:, :7]}

    monkeypatch.setattr(efflite0, "EffLite0Features", Seven)


def fails(capsys, argv, code):
    """Run, and return the one sentence on stderr."""
    try:
        found = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse's way out
        found = stop.code
    assert found == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def fails_in_one_line(capsys, argv, code):
    error = fails(capsys, argv, code)
    assert error.startswith("genmetrics: Expected ")
    assert error.count("\n") == 1
    return error


def build(source, target, *options):
    return main(["stats", "build", str(source), str(target), *EFFLITE0, *options])


def write_mu_sigma(path, d=7, **arrays):
    np.savez(path, mu=np.zeros(d), sigma=np.eye(d), **arrays)
    return path


def test_build_takes_its_features_from_the_cache(emoji, write_images, tmp_path, monkeypatch):
    folder, cache = write_images(emoji[:5]), ["--cache", str(tmp_path / "cache")]
    assert build(folder, tmp_path / "a.npz", *cache) == 0
    monkeypatch.setattr(
        "genmetrics.networks.extractors.Extractor.__call__", lambda *_: pytest.fail("run")
    )
    assert build(folder, tmp_path / "b.npz", *cache) == 0


def test_build_stores_the_statistics_and_where_they_are_from(emoji, write_images, tmp_path, capsys):
    folder, out = write_images(emoji[:5]), tmp_path / "out.npz"
    assert build(folder, out, "--split", "val", "--batch-size", "2") == 0
    assert capsys.readouterr().out == f"{out}: features of 5 images\n"
    found = load_stats(out, "features")
    extractor = get_extractor("efflite0")
    features = extract(open_images(folder), extractor)["features"]
    expected = StatsAccumulator(1280).update(features).finalize()
    assert found.n == 5
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.cov, expected.cov, rtol=1e-4, atol=5e-5)
    meta = dict(found.meta)
    assert meta.pop("genmetrics_version")
    assert meta.pop("torch_version").startswith("2.")
    assert meta == {
        "extractor": "efflite0",
        "weights_sha256": extractor.weights_sha256,
        "preprocess_id": extractor.preprocess_id,
        "output": "features",
        "source": "images",
        "source_fingerprint": open_images(folder).fingerprint(),
        "split": "val",
        "sums": "float64",
    }


def test_without_split_none_is_claimed(quick, emoji, write_images, tmp_path):
    assert build(write_images(emoji[:5]), tmp_path / "out.npz") == 0
    assert "split" not in load_stats(tmp_path / "out.npz", "features").meta


def test_exact_statistics_do_not_depend_on_the_order(quick, emoji, write_images, tmp_path):
    images = emoji[:40]
    forward, backward = write_images(images, "forward"), write_images(images[::-1], "backward")
    found = {}
    for options in ([], ["--exact"]):
        for folder in (forward, backward):
            assert build(folder, tmp_path / "out.npz", *options) == 0
            found[folder.name, bool(options)] = load_stats(tmp_path / "out.npz", "features")
    assert torch.equal(found["forward", True].cov, found["backward", True].cov)
    assert torch.equal(found["forward", True].mean, found["backward", True].mean)
    assert not torch.equal(found["forward", False].cov, found["backward", False].cov)
    assert found["forward", True].meta["sums"] == "exact-2^-14"


def test_merged_shards_are_the_whole_set(quick, emoji, write_images, tmp_path, capsys):
    shards = {"a": emoji[:11], "b": emoji[11:28], "c": emoji[28:30], "all": emoji[:30]}
    for name, images in shards.items():
        assert build(write_images(images, name), tmp_path / f"{name}.npz") == 0
    capsys.readouterr()
    files = [str(tmp_path / f"{name}.npz") for name in ("a", "b", "c", "merged")]
    assert main(["stats", "merge", *files]) == 0
    assert capsys.readouterr().out == f"{files[-1]}: features of 30 images\n"
    merged, whole = (load_stats(tmp_path / f"{n}.npz", "features") for n in ("merged", "all"))
    assert merged.n == 30
    torch.testing.assert_close(merged.cov, whole.cov, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-9, atol=1e-11)
    assert merged.meta["extractor"] == "efflite0"
    assert "source_fingerprint" not in merged.meta
    assert "sums" not in merged.meta


def test_a_distance_of_built_statistics_is_that_of_the_images(quick, emoji, write_images, tmp_path):
    folders = write_images(emoji[:20], "a"), write_images(emoji[20:50], "b")
    stats, features = [], []
    for folder in folders:
        assert build(folder, tmp_path / "out.npz") == 0
        stats.append(load_stats(tmp_path / "out.npz", "features"))
        features.append(extract(open_images(folder), get_extractor("efflite0"))["features"])
    expected = frechet_distance_from_features(*features).value
    assert frechet_distance(*stats).value == pytest.approx(expected, rel=1e-9)


def test_convert_reads_other_tools_and_adds_the_count(tmp_path, capsys):
    torch.save({"mu": np.ones(3), "sigma": np.eye(3)}, tmp_path / "in.pt")
    out = tmp_path / "out.npz"
    assert main(["stats", "convert", str(tmp_path / "in.pt"), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: pool3 of unknown images\n"
    assert load_stats(out).n is None
    assert main(["stats", "convert", str(out), str(out), "--n", "50000"]) == 0
    assert load_stats(out).n == 50000
    assert load_stats(out).meta == {"format": "mu-sigma", "source": "in.pt"}
    assert torch.equal(load_stats(out).mean, torch.ones(3).double())


def test_convert_does_not_contradict_the_file(tmp_path, capsys):
    write_mu_sigma(tmp_path / "in.npz")
    out = tmp_path / "out.npz"
    assert main(["stats", "convert", str(tmp_path / "in.npz"), str(out), "--n", "9"]) == 0
    capsys.readouterr()
    assert main(["stats", "convert", str(out), str(out), "--n", "9"]) == 0
    capsys.readouterr()
    error = fails_in_one_line(capsys, ["stats", "convert", out, out, "--n", "8"], 2)
    assert "says 9 and --n is 8" in error


def test_info_shows_counts_and_origin(quick, emoji, write_images, tmp_path, capsys):
    assert build(write_images(emoji[:5]), tmp_path / "out.npz", "--split", "val") == 0
    capsys.readouterr()
    assert main(["stats", "info", str(tmp_path / "out.npz"), "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    described = result["outputs"]["features"]
    assert (described["n"], described["dim"], described["rank_bound"]) == (5, 7, 4)
    stats = load_stats(tmp_path / "out.npz", "features")
    assert described["trace"] == pytest.approx(stats.cov.trace().item())
    assert described["meta"]["split"] == "val"
    assert result["command"][:3] == ["genmetrics", "stats", "info"]
    assert main(["stats", "info", str(tmp_path / "out.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "features"
    rows = dict(line.split(maxsplit=1) for line in lines[1:])
    assert (rows["n"], rows["split"], rows["preprocess_id"]) == ("5", "val", "none")


def test_info_of_an_unknown_count_is_null(tmp_path, capsys):
    write_mu_sigma(tmp_path / "x.npz", mu_s=np.zeros(2), sigma_s=np.eye(2))
    report = tmp_path / "r.json"
    assert main(["stats", "info", str(tmp_path / "x.npz"), "--json", str(report)]) == 0
    assert "n                    unknown" in capsys.readouterr().out
    outputs = json.loads(report.read_text())["outputs"]
    assert outputs.keys() == {"pool3", "spatial"}
    assert outputs["pool3"]["n"] is None
    assert outputs["pool3"]["rank_bound"] == 7


def test_skipped_images_lower_the_count_and_are_named(quick, emoji, write_images, tmp_path, capsys):
    folder = write_images(emoji[:6])
    (folder / "2.png").write_bytes(b"no image")
    error = fails_in_one_line(
        capsys, ["stats", "build", folder, tmp_path / "out.npz", *EFFLITE0], 3
    )
    assert "2.png" in error
    assert not (tmp_path / "out.npz").exists()
    assert build(folder, tmp_path / "out.npz", "--on-bad-image", "skip") == 6
    result = capsys.readouterr()
    assert "features of 5 images" in result.out
    assert "left out of n: 2.png" in result.err
    assert load_stats(tmp_path / "out.npz", "features").n == 5


def test_recursive_reads_deeper_folders(quick, emoji, write_images, tmp_path):
    folder = write_images(emoji[:6])
    write_images(emoji[6:9], "images/deep/er")
    counts = []
    for options in ([], ["--recursive"]):
        assert build(folder, tmp_path / "out.npz", *options) == 0
        counts.append(load_stats(tmp_path / "out.npz", "features").n)
    assert counts == [6, 9]


def test_one_image_is_too_few(quick, emoji, write_images, tmp_path, capsys):
    argv = ["stats", "build", write_images(emoji[:1]), tmp_path / "out.npz", *EFFLITE0]
    assert "at least 2 samples" in fails_in_one_line(capsys, argv, 3)


def test_missing_weights_exit_4_before_any_image_is_read(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/1.png").write_bytes(b"no image")
    fails_in_one_line(capsys, ["stats", "build", tmp_path / "set", tmp_path / "out.npz"], 4)


def test_features_that_are_not_finite_exit_5(quick, emoji, write_images, tmp_path, capsys):
    from genmetrics.networks import efflite0

    def nan(self, images):
        return {"features": torch.full((len(images), 7), float("nan"))}

    efflite0.EffLite0Features.forward = nan
    argv = ["stats", "build", write_images(emoji[:3]), tmp_path / "out.npz", *EFFLITE0]
    assert "3 of 3 rows (0, 1, 2)" in fails_in_one_line(capsys, argv, 5)


def test_features_beyond_exact_sums_exit_3(quick, emoji, write_images, tmp_path, capsys):
    from genmetrics.networks import efflite0

    def large(self, images):
        return {"features": torch.full((len(images), 7), 64.0)}

    efflite0.EffLite0Features.forward = large
    argv = ["stats", "build", write_images(emoji[:3]), tmp_path / "out.npz", *EFFLITE0]
    assert "features below 64" in fails_in_one_line(capsys, [*argv, "--exact"], 3)


@pytest.mark.parametrize("action", ["convert", "merge", "info"])
def test_unsuitable_files_exit_3(tmp_path, capsys, action):
    write_mu_sigma(tmp_path / "good.npz")
    np.savez(tmp_path / "key.npz", arr_0=np.zeros(3))
    np.savez(tmp_path / "nan.npz", mu=np.full(2, np.nan), sigma=np.eye(2))
    np.savez(tmp_path / "object.npz", mu=np.array([{}]), sigma=np.eye(2))
    (tmp_path / "x.pkl").write_bytes(b"")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    for name, message in [
        ("gone.npz", "which is none"),
        ("key.npz", "got arr_0"),
        ("nan.npz", "NaN or infinity"),
        ("object.npz", "allow_pickle=False"),
        ("x.pkl", "without pickled code"),
        ("torn.npz", "torn.npz"),
    ]:
        argv = ["stats", action, tmp_path / name, tmp_path / "out.npz"]
        error = fails_in_one_line(capsys, argv[:3] if action == "info" else argv, 3)
        assert message in error
        assert name in error
    assert not (tmp_path / "out.npz").exists()


def test_fid_of_two_files_of_statistics(quick, emoji, write_images, tmp_path, capsys):
    sets = {name: write_images(emoji[rows], name) for name, rows in SETS.items()}
    a, b = (tmp_path / f"{name}.npz" for name in SETS)
    assert build(sets["a"], a) == build(sets["b"], b) == 0
    capsys.readouterr()
    argv = ["fid", str(a), str(b), "--json", str(tmp_path / "r.json")]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    wanted = frechet_distance(load_stats(a, "features"), load_stats(b, "features"))
    assert out.split()[:3] == ["fd_efflite0", f"{wanted.value:.4f}", "9"]
    assert err == ""
    score = json.loads((tmp_path / "r.json").read_text())["metrics"]["fd_efflite0"]
    assert (score["value"], score["n_samples"], score["n_ref"]) == (wanted.value, 9, 12)
    write_mu_sigma(tmp_path / "other.npz", 3)
    for argv, code, told in (
        (["fid", a, sets["b"]], 2, "got statistics in"),
        (["fid", a, b, "--extractor", "inception"], 2, "Expected --extractor efflite0, which"),
        (["fid", a, tmp_path / "other.npz"], 3, "one output; got features and pool3"),
        (["fid", sets["a"], b], 2, "Expected --extractor efflite0, which"),
        (["eval", sets["a"], "--ref", b], 2, "which "),
        (["eval", a, "--ref", b, *EFFLITE0], 3, "Expected images in"),
    ):
        assert told in fails_in_one_line(capsys, argv, code)


def test_fid_of_statistics_that_name_no_network(tmp_path, capsys):
    write_mu_sigma(tmp_path / "a.npz", 3)
    torch.save({"mu": np.ones(3), "sigma": np.eye(3)}, tmp_path / "b.pt")
    assert main(["fid", str(tmp_path / "a.npz"), str(tmp_path / "b.pt")]) == 0
    name, _, *counts = capsys.readouterr().out.split()
    assert (name, counts[0], counts[2]) == ("fid", "unknown", "unknown")


def test_fid_of_statistics_has_the_remarks_of_eval(tmp_path, capsys):
    meta = {"extractor": "inception", "weights_sha256": "12345678ab", "preprocess_id": "half"}
    mean, cov = torch.zeros(3).double(), torch.eye(3).double()
    save_stats(tmp_path / "a.npz", {"pool3": GaussianStats(9, mean, cov, meta)})
    write_mu_sigma(tmp_path / "b.npz", 3)
    write_mu_sigma(tmp_path / "adm.npz", 3, mu_s=np.zeros(3), sigma_s=np.eye(3))
    codes = {}
    for name in ("b", "adm", "a"):
        argv = ["fid", str(tmp_path / "a.npz"), str(tmp_path / f"{name}.npz"), "--json", "-"]
        assert main(argv) == 0
        out, err = capsys.readouterr()
        plain = json.loads(out)
        assert err == "".join(f"warning: {each['message']}\n" for each in plain["warnings"])
        assert plain["extractor"] == {"name": "inception"} | {
            key: meta[key] for key in ("weights_sha256", "preprocess_id")
        }
        codes[name] = [each["code"] for each in plain["warnings"]]
    assert codes["b"] == ["UNKNOWN_PREPROCESSING", "OTHER_WEIGHTS"]
    assert codes["adm"] == codes["a"] == ["OTHER_WEIGHTS"]
    argv = ["fid", str(tmp_path / "b.npz"), str(tmp_path / "b.npz"), "--json", "-"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "extractor" not in json.loads(out)
    assert f"{tmp_path / 'b.npz'} does not say how its images were resized" in err


def test_merging_different_networks_needs_force(quick, emoji, write_images, tmp_path, capsys):
    from genmetrics.networks import efflite0

    a, b, out = (tmp_path / f"{name}.npz" for name in ("a", "b", "out"))
    assert build(write_images(emoji[:5], "a"), a) == 0
    efflite0.EffLite0Features.preprocess_id = "other"
    assert build(write_images(emoji[5:9], "b"), b) == 0
    capsys.readouterr()
    error = fails_in_one_line(capsys, ["stats", "merge", a, b, out], 3)
    assert "one preprocess_id; got none and other. Build both alike, or merge them" in error
    assert "all the same with --force (force=True in Python)." in error
    assert main(["stats", "merge", str(a), str(b), str(out), "--force"]) == 0
    assert load_stats(out, "features").n == 9


def test_merging_what_cannot_be_merged_exits_3(tmp_path, capsys):
    for name, d, n in (("a", 3, "5"), ("b", 4, "5"), ("c", 3, None)):
        write_mu_sigma(tmp_path / f"{name}.npz", d)
        if n is not None:
            path = str(tmp_path / f"{name}.npz")
            assert main(["stats", "convert", path, path, "--n", n]) == 0
    write_mu_sigma(tmp_path / "d.npz", 3, mu_s=np.zeros(2), sigma_s=np.eye(2))
    capsys.readouterr()
    for other, message in (("b", "3 and 4"), ("c", "convert --n"), ("d", "pool3, spatial")):
        argv = ["stats", "merge", tmp_path / "a.npz", tmp_path / f"{other}.npz"]
        error = fails_in_one_line(capsys, [*argv, tmp_path / "out.npz", "--force"], 3)
        assert message in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["stats"], "required: ACTION"),
        (["stats", "make"], "'make'"),
        (["stats", "build", "a"], "required: OUT.npz"),
        (["stats", "merge", "a"], "required: OUT.npz"),
        (["stats", "convert", "a", "b.npz", "--n", "0"], "at least 1; got '0'"),
        (["stats", "convert", "a", "no/such/b.npz"], "existing folder"),
        (["stats", "convert", "a", "b.npy"], "end in .npz"),
        (["stats", "info", "a", "--json", "no/such/b.json"], "existing folder"),
        (["stats", "build", "a", "b.npz", "--ex"], "unrecognized"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2(capsys, argv, message):
    assert message in fails(capsys, argv, 2)
