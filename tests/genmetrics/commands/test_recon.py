import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genmetrics.cli import main

EFFLITE0 = ["--extractor", "efflite0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("GENMETRICS_OFFLINE", "1")
    for name in ("GENMETRICS_WEIGHTS", "GENMETRICS_INCEPTION_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folders(emoji, write_images):
    noise = np.random.default_rng(0).normal(0, 9, emoji[:5].shape)
    copies = np.clip(emoji[:5] + noise, 0, 255).astype(np.uint8)
    return str(write_images(emoji[:5], "real")), str(write_images(copies, "recon"))


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory):
    from torchvision.models import alexnet

    file = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = alexnet().features.state_dict()
    torch.save({f"features.{key}": value for key, value in state.items()}, file)
    return str(file)


def report_of(capsys, argv):
    assert main(argv) == 0
    return json.loads(capsys.readouterr().out)


def test_all_metrics_in_one_table(folders, capsys, alexnet):
    assert main(["recon", *folders, *EFFLITE0, "--lpips-weights", alexnet]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "5 pairs by name, bytes as stored, not converted"
    assert [line.split()[0] for line in lines[1:]] == [
        "psnr",
        "of",
        "ssim",
        "lpips",
        "rfd_efflite0",
    ]
    assert "alex v0.1" in lines[4]
    assert "not torchvision's" in err


def test_json_holds_the_conventions(folders, capsys):
    argv = ["recon", *folders, "--metrics", "ssim,psnr", "--ssim-window", "uniform", "--json", "-"]
    report = report_of(capsys, argv)
    assert report["metrics"].keys() == {"psnr", "ssim"}
    assert report["metrics"]["ssim"]["window"].startswith("uniform 7x7")
    assert report["metrics"]["psnr"]["n_pairs"] == 5
    assert report["real"]["path"] == folders[0]
    assert report["command"][:2] == ["genmetrics", "recon"]


@pytest.fixture
def classes(emoji, write_images):
    """Five pairs in two folders; each copy is darker than the one before."""
    for folder, places in (("cat", (0, 1)), ("dog", (2, 3, 4))):
        write_images(emoji[list(places)], f"real/{folder}")
        copies = [(emoji[i] * (0.95 - 0.1 * i)).astype(np.uint8) for i in places]
        write_images(np.stack(copies), f"recon/{folder}")
    return lambda root: [str(root / name) for name in ("real", "recon")]


def test_worst_pairs_are_listed_by_each_metric(classes, tmp_path, capsys):
    argv = ["recon", *classes(tmp_path), "--metrics", "psnr,ssim", "--worst", "2"]
    report = report_of(capsys, [*argv, "--json", "-"])
    first, second = report["worst"]["psnr"]
    assert (first["name"], second["name"]) == ("dog/2", "dog/1")
    assert first["value"] < second["value"] < report["metrics"]["psnr"]["value"]
    assert len(report["worst"]["ssim"]) == 2
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("worst psnr")] == [
        *("dog/2", "dog/1")
    ]


def test_the_largest_lpips_is_the_worst(classes, tmp_path, capsys, alexnet):
    argv = ["recon", *classes(tmp_path), "--metrics", "lpips", "--lpips-weights", alexnet]
    values = report_of(capsys, [*argv, "--worst", "5", "--json=-"])["worst"]["lpips"]
    found = [each["value"] for each in values]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_classes_have_scores_of_their_own_with_their_counts(classes, tmp_path, capsys):
    argv = ["recon", *classes(tmp_path), "--metrics", "psnr,ssim", "--per-class"]
    report = report_of(capsys, [*argv, "--json", "-"])
    cat, dog = (report["per_class"][name] for name in ("cat", "dog"))
    assert (cat["n_pairs"], dog["n_pairs"]) == (2, 3)
    mean = (2 * cat["psnr"]["value"] + 3 * dog["psnr"]["value"]) / 5
    assert mean == pytest.approx(report["metrics"]["psnr"]["value"])
    assert cat["psnr"]["value"] > dog["psnr"]["value"]
    assert main(argv) == 0
    assert "class          pairs       psnr       ssim" in capsys.readouterr().out


def test_classes_of_images_without_any_are_refused_before_a_pair_is_read(
    folders, capsys, monkeypatch
):
    monkeypatch.setattr("genmetrics.images.sources.PictureSet.read", lambda *_: pytest.fail("read"))
    assert main(["recon", *folders, "--per-class", "--metrics", "psnr"]) == 3
    assert "Leave --per-class out." in capsys.readouterr().err


def test_rfid_takes_its_features_from_the_cache(folders, tmp_path, capsys, monkeypatch):
    cache = ["--cache", str(tmp_path / "cache"), "--json", "-"]
    argv = ["recon", *folders, *EFFLITE0, "--metrics", "rfid", *cache]
    first = report_of(capsys, argv)["metrics"]
    monkeypatch.setattr(
        "genmetrics.networks.extractors.Extractor.__call__", lambda *_: pytest.fail("run")
    )
    assert report_of(capsys, argv)["metrics"] == first


def test_equal_pairs_are_not_called_far_above_their_distance(folders, capsys):
    argv = ["recon", folders[0], folders[0], *EFFLITE0, "--metrics", "psnr,rfid", "--json", "-"]
    codes = [each["code"] for each in report_of(capsys, argv)["warnings"]]
    assert "EQUAL_PAIRS" in codes
    assert "RANK_DEFICIENT" not in codes


def test_arrays_pair_by_index(emoji, tmp_path, capsys):
    for name in "xy":
        np.savez(tmp_path / f"{name}.npz", emoji[:4])
    argv = ["recon", *(str(tmp_path / f"{n}.npz") for n in "xy"), "--metrics", "psnr", "--json=-"]
    report = report_of(capsys, argv)
    assert report["pairing"] == "index"
    assert report["metrics"]["psnr"]["value"] == 100.0


def test_limit_keeps_partners_together(folders, emoji, write_images, capsys):
    more = write_images(emoji[5:7], "real/more")
    copies = write_images(emoji[5:7], "recon/more")
    assert more.is_dir()
    assert copies.is_dir()
    values = []
    for seed in ("0", "0", "1"):
        argv = ["recon", *folders, "--metrics", "psnr", "--limit", "3", "--seed", seed, "--json=-"]
        psnr = report_of(capsys, argv)["metrics"]["psnr"]
        assert psnr["n_pairs"] == 3
        assert psnr["value"] > 25
        values.append(psnr["value"])
    assert values[0] == values[1] != values[2]


def test_pairing_errors_exit_3(folders, emoji, write_images, capsys):
    few = str(write_images(emoji[:3], "few"))
    assert main(["recon", folders[0], few, "--metrics", "psnr"]) == 3
    err = capsys.readouterr().err
    assert f"2 without a partner in {few}: 3, 4." in err
    assert err.count("\n") == 1


def test_a_pair_with_a_torn_picture_can_be_skipped_on_both_sides(folders, capsys):
    for folder in folders:
        Path(folder, "2.png").write_bytes(b"no image")
    argv = ["recon", *folders, "--metrics", "psnr", "--json=-"]
    assert main(argv) == 3
    assert "2.png" in capsys.readouterr().err
    assert main([*argv, "--on-bad-image", "skip"]) == 6
    assert json.loads(capsys.readouterr().out)["metrics"]["psnr"]["n_pairs"] == 4


def test_pairs_by_index_skip_no_picture(folders, capsys):
    Path(folders[0], "1.png").write_bytes(b"no image")
    Path(folders[1], "3.png").write_bytes(b"no image")
    argv = ["recon", *folders, "--metrics", "psnr", "--pairing", "index", "--on-bad-image", "skip"]
    assert main(argv) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert f"got 1 skipped in {folders[0]}: 1.png. Pair by name with --pairing name" in err


def test_missing_weights_exit_4(folders, capsys):
    assert main(["recon", *folders, "--metrics", "psnr,lpips"]) == 4
    assert "alexnet-owt-7be5be79.pth" in capsys.readouterr().err
    assert main(["recon", *folders, "--metrics", "rfid"]) == 4
    assert "Inception" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metrics", "psnr,fid"], "got 'fid'"),
        (["--metrics", ""], "after --metrics; got an empty one"),
        (["--pairing", "hash"], "'hash'"),
        (["--ssim-window", "box"], "'box'"),
        (["--lpips-net", "resnet"], "'resnet'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2(folders, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        main(["recon", *folders, *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
