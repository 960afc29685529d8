"""``genmetrics eval`` with all its metrics, statistics as a reference, and ``compare``."""

import json
from dataclasses import replace
from shutil import copy

import numpy as np
import pytest
import torch

from genmetrics import extract_features, get_extractor
from genmetrics.cli import main
from genmetrics.errors import BadInput, UsageError
from genmetrics.evaluation.compare import compare_reports
from genmetrics.evaluation.evaluate import evaluate
from genmetrics.evaluation.protocols import METRICS, PROTOCOLS, choose_protocol
from genmetrics.evaluation.reference import Reference, open_reference
from genmetrics.features.stats import GaussianStats, StatsAccumulator
from genmetrics.features.stats_files import save_stats
from genmetrics.images.sources import open_images
from genmetrics.metrics.class_scores import inception_score
from genmetrics.metrics.neighbours import precision_recall
from genmetrics.networks.extractors import Extractor

EFFLITE0 = ["--extractor", "efflite0", "--device", "cpu"]


class Means(torch.nn.Module):
    """Few features of an image, so that few images are enough."""

    def forward(self, images):
        pixels = images.double()
        means = pixels.mean(dim=(2, 3))
        spread = pixels.std(dim=(1, 2, 3))[:, None]
        return {"pool3": torch.cat([means, spread], 1).float(), "spatial": means.float()}


class Wide(torch.nn.Module):
    """More features than there are images."""

    def forward(self, images):
        return {"pool3": torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)}


@pytest.fixture
def extractor():
    network, outputs = Means(), {"pool3": 4, "spatial": 3}
    classes = torch.nn.Linear(4, 5, bias=False)
    torch.nn.init.normal_(classes.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    return Extractor(
        name="inception",
        outputs=outputs,
        preprocess_id="none",
        weights_sha256="6726825d00",
        network=network,
        device=torch.device("cpu"),
        classifier=classes.requires_grad_(requires_grad=False),
    )


@pytest.fixture
def sets(emoji, write_images):
    return open_images(write_images(emoji[:40], "samples")), open_images(
        write_images(emoji[40:90], "real")
    )


def test_every_metric_is_the_function_s_own_on_features_of_one_pass(sets, extractor):
    protocol = choose_protocol(
        "adm",
        None,
        metrics=tuple(METRICS),
        kid_subset_size=20,
        kid_subsets=5,
        is_chunk=20,
    )
    batches = []
    extractor.network.register_forward_hook(lambda *_: batches.append(1))
    report = evaluate(*sets, extractor=extractor, protocol=protocol, batch_size=30)
    assert len(batches) == 4, "one pass over either set, whatever the number of metrics"
    assert list(report.scores) == [
        *("fid", "sfid", "is", "precision", "recall", "density", "coverage", "kid", "fid_inf"),
        "cmmd",
    ]
    x, y = (extract_features(each, extractor) for each in sets)
    found = precision_recall(x, y, density_coverage=True)
    for name in ("precision", "recall", "density", "coverage"):
        assert report[name].value == getattr(found, name), name
    assert (report["recall"].n_samples, report["recall"].n_ref) == (40, 50)
    assert report["is"].value == inception_score(extractor.logits(x), chunk=20).mean
    assert report["fid"].se > 0
    assert report["fid"].value != report["sfid"].value
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["protocol"]["name"] == "adm"


def test_extrapolation_from_fewer_samples_than_dimensions_has_no_error(sets, extractor):
    wide = replace(extractor, network=Wide(), outputs={"pool3": 48})
    protocol = choose_protocol("adm", None, metrics=("fd_inf",))
    report = evaluate(*sets, extractor=wide, protocol=protocol)
    assert report["fid_inf"].se is None
    (remark,) = report.remarks
    assert remark.code == "TOO_FEW_FOR_LINE"
    assert "fid_inf needs 480 samples, ten times the dimensions; there are 40" in remark.message


def test_scores_of_another_network_do_not_carry_the_literature_s_names(sets):
    report = evaluate(
        *sets,
        extractor=get_extractor("efflite0"),
        protocol=choose_protocol(None, "efflite0", metrics=("fid", "is", "pr")),
    )
    assert set(report.scores) == {
        *("fd_efflite0", "is_efflite0", "precision_efflite0", "recall_efflite0"),
    }


def test_statistics_replace_the_reference_s_images_in_frechet_distances(sets, extractor, tmp_path):
    samples, real = sets
    whole = evaluate(samples, real, extractor=extractor)
    y = extract_features(real, extractor)
    file = tmp_path / "real.npz"
    save_stats(file, {"pool3": StatsAccumulator(4).update(y).finalize()})
    alone = evaluate(samples, open_reference(file), extractor=extractor)
    assert alone["fid"].value == pytest.approx(whole["fid"].value, abs=1e-9)
    assert alone.reference.kind == "statistics"
    assert alone["fid"].n_ref == 50
    protocol = choose_protocol("adm", None, metrics=("pr",))
    with pytest.raises(ValueError, match="a reference of images for pr; got statistics alone"):
        evaluate(samples, open_reference(file), extractor=extractor, protocol=protocol)
    with pytest.raises(ValueError, match="statistics of the output spatial for sfid"):
        evaluate(
            samples,
            open_reference(file),
            extractor=extractor,
            protocol=choose_protocol("adm", None, metrics=("sfid",)),
        )


def test_adm_reference_serves_statistics_and_images(sets, extractor, emoji, tmp_path):
    """Its FID is to mu and sigma, which are of other images than arr_0."""
    samples, _ = sets
    images = np.stack(list(emoji[40:90]))
    rng = np.random.default_rng(0)
    mu, factor = rng.normal(size=4), rng.normal(size=(9, 4))
    file = tmp_path / "adm.npz"
    np.savez(file, arr_0=images, mu=mu, sigma=np.cov(factor.T))
    reference = open_reference(file)
    report = evaluate(
        samples,
        reference,
        extractor=extractor,
        protocol=choose_protocol("adm", None, metrics=("fid", "pr")),
    )
    wanted = torch.from_numpy(mu)
    x = extract_features(samples, extractor).double()
    assert report["fid"].details["mean_term"] == pytest.approx(
        (x.mean(0) - wanted).square().sum().item()
    )
    assert report["precision"].n_ref == 50
    assert not [remark for remark in report.remarks if "not used" in remark.message]


@pytest.mark.parametrize(
    ("arrays", "meta", "metrics", "told"),
    [
        ("mu-sigma", None, "fid", True),
        ("mu-sigma", None, "fd_inf", True),
        ("mu-sigma", None, "is", False),
        ("adm", None, "fid,sfid", False),
        ("genmetrics", {"preprocess_id": "none"}, "fid", False),
        ("genmetrics", {}, "fid", True),
        ("torchmetrics", {"format": "torchmetrics"}, "fid", True),
    ],
)
def test_statistics_that_do_not_say_how_images_were_resized_are_remarked(
    sets, extractor, tmp_path, arrays, meta, metrics, told
):
    file, known = tmp_path / "real.npz", {"mu": np.zeros(4), "sigma": np.eye(4)}
    if arrays == "adm":
        known |= {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    if meta is None:
        np.savez(file, **known)
    else:
        mean, cov = (torch.from_numpy(each) for each in known.values())
        save_stats(file, {"pool3": GaussianStats(9, mean, cov, meta)})
    protocol = choose_protocol("adm", None, metrics=metrics)
    report = evaluate(sets[0], file, extractor=extractor, protocol=protocol)
    found = [each.message for each in report.remarks if each.code == "UNKNOWN_PREPROCESSING"]
    wanted = (
        f"{file} does not say how its images were resized; it is comparable only if as TensorFlow "
        "1 did, and pytorch-fid's and clean-fid's are not."
    )
    assert found == [wanted] * told
    plain = report.to_dict()
    assert plain["reference"]["format"] == arrays
    assert "format" not in plain["samples"]


def test_statistics_of_unknown_preprocessing_name_that_of_another_network(
    sets, extractor, tmp_path
):
    mean, cov = torch.zeros(4).double(), torch.eye(4).double()
    save_stats(tmp_path / "real.npz", {"pool3": GaussianStats(9, mean, cov)})
    own = replace(extractor, name="own", preprocess_id="bicubic, 224")
    report = evaluate(sets[0], tmp_path / "real.npz", extractor=own)
    (remark,) = [each for each in report.remarks if each.code == "UNKNOWN_PREPROCESSING"]
    assert remark.message.endswith("it is comparable only if as own does: bicubic, 224.")


def test_statistics_of_another_network_are_refused(sets, extractor):
    samples, real = sets
    zeros = torch.zeros(4, dtype=torch.float64)
    meta = {"extractor": "efflite0", "output": "pool3"}
    stats = GaussianStats(9, zeros, torch.eye(4, dtype=torch.float64), meta)
    with pytest.raises(BadInput, match=r"one extractor; got efflite0 and inception"):
        evaluate(samples, Reference(real.path, None, {"pool3": stats}), extractor=extractor)
    with pytest.raises(BadInput, match="the reference has features"):
        evaluate(samples, Reference(real.path, None, {"features": stats}), extractor=extractor)


def test_what_cannot_be_scored_is_said_before_any_image_is_read(sets, extractor, monkeypatch):
    samples, real = sets
    monkeypatch.setattr(
        "genmetrics.evaluation.evaluate.extract", lambda *_, **__: pytest.fail("a pass")
    )
    dino = replace(extractor, name="dinov2", outputs={"features": 4}, classifier=None)
    for metric, message in (("sfid", "inception for sfid; got dinov2"), ("is", "a classifier")):
        protocol = choose_protocol(None, "dinov2", metrics=(metric,))
        with pytest.raises(ValueError, match=message):
            evaluate(samples, real, extractor=dino, protocol=protocol)


def test_images_with_more_arrays_are_a_reference_as_they_are_samples(sets, extractor, tmp_path):
    _, real = sets
    images = np.stack([real.read(index) for index in range(len(real))])
    np.savez(tmp_path / "real.npz", images, np.arange(50), names=np.arange(50), z=np.zeros(3))
    found = evaluate(sets[0], tmp_path / "real.npz", extractor=extractor)
    assert found["fid"].value == evaluate(*sets, extractor=extractor)["fid"].value


def test_a_limit_holds_for_the_images_of_adm_s_reference(
    sets, extractor, emoji, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "adm.npz"
    known = {"mu": np.zeros(4), "sigma": np.eye(4), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    np.savez(file, arr_0=np.stack(list(emoji[40:90])), **known)
    monkeypatch.setattr("genmetrics.networks.extractors.get_extractor", lambda *_, **__: extractor)
    argv = ["eval", str(sets[0].path), "--ref", str(file), "--metrics", "fid,pr", "--json", "-"]
    whole, limited = [], []
    for found, more in ((whole, []), (limited, ["--limit", "12"]), (whole, ["--limit", "50"])):
        assert main([*argv, *more, "--device", "cpu"]) == 0
        out, err = capsys.readouterr()
        found.append((json.loads(out), err))
    (report, err), *_ = limited
    assert report["metrics"]["precision"]["n_samples"] == 12
    assert report["metrics"]["precision"]["n_ref"] == report["reference"]["n"] == 12
    assert report["metrics"]["fid"]["n_ref"] is None
    assert "--limit draws 12 of the images in" in err
    assert "not used" not in err
    for report, err in whole:
        assert report["metrics"]["precision"]["n_ref"] == 50
        assert "--limit" not in err


def test_the_spatial_distance_needs_features_of_that_name(sets, extractor, monkeypatch):
    monkeypatch.setattr(
        "genmetrics.evaluation.evaluate.extract", lambda *_, **__: pytest.fail("a pass")
    )
    two = replace(extractor, name="two", outputs={"colour": 4, "corner": 3})
    protocol = choose_protocol(None, "two", metrics=("sfid",))
    with pytest.raises(UsageError, match="inception for sfid; got two"):
        evaluate(*sets, extractor=two, protocol=protocol)


def test_only_inception_s_spatial_distance_has_the_plain_name(sets, extractor):
    own = replace(extractor, name="own")
    protocol = choose_protocol(None, "own", metrics=("fid", "sfid"))
    samples, real = (each.select([0, 1, 2]) for each in sets)
    wanted = evaluate(samples, real, extractor=extractor, protocol=protocol)
    found = evaluate(samples, real, extractor=own, protocol=protocol)
    assert list(found.scores) == ["fd_own", "sfid_own"]
    assert found["sfid_own"] == wanted["sfid"]
    for report, name in ((found, "sfid_own"), (wanted, "sfid")):
        told = [each.message for each in report.remarks if each.code == "RANK_DEFICIENT"]
        assert any(f"not more than the 3 dimensions: {name} is far above" in each for each in told)


def test_statistics_alone_do_not_leave_an_empty_report(sets, extractor, tmp_path, capsys):
    mean, cov = torch.zeros(4).double(), torch.eye(4).double()
    save_stats(tmp_path / "real.npz", {"pool3": GaussianStats(9, mean, cov)})
    argv = ["eval", str(sets[0].path), "--ref", str(tmp_path / "real.npz"), "--protocol", "cmmd"]
    assert main([*argv, "--device", "cpu"]) == 2
    assert "Expected a reference of images for cmmd" in capsys.readouterr().err


def test_adm_s_images_serve_another_network(sets, emoji, tmp_path):
    samples, real = sets
    file = tmp_path / "adm.npz"
    np.savez(file, arr_0=np.stack(list(emoji[40:90])), mu=np.zeros(9), sigma=np.eye(9))
    extractor = get_extractor("efflite0")
    report = evaluate(samples, open_reference(file), extractor=extractor)
    alone = evaluate(samples, real, extractor=extractor)
    assert report["fd_efflite0"].value == pytest.approx(alone["fd_efflite0"].value)
    (remark,) = [each for each in report.remarks if each.code == "OTHER_STATISTICS"]
    assert "statistics of pool3 are of another network" in remark.message


def test_a_set_against_itself_is_remarked(sets, extractor):
    samples, real = sets
    codes = [each.code for each in evaluate(samples, samples, extractor=extractor).remarks]
    assert "SAME_IMAGES" in codes
    codes = [each.code for each in evaluate(samples, real, extractor=extractor).remarks]
    assert "SAME_IMAGES" not in codes


def test_no_distance_is_not_called_far_above_that_of_many_images(emoji, write_images, extractor):
    """Also of copies under another time stamp, whose fingerprint differs."""
    wide = replace(extractor, network=Wide(), outputs={"pool3": 48})
    first, copy = (open_images(write_images(emoji[:20], name)) for name in "ab")
    report = evaluate(first, copy, extractor=wide)
    assert [remark.code for remark in report.remarks] == ["SAME_IMAGES", "SMALL_REFERENCE"]
    other = evaluate(first, open_images(write_images(emoji[20:40], "c")), extractor=wide)
    assert [remark.code for remark in other.remarks] == ["RANK_DEFICIENT", "SMALL_REFERENCE"]


def test_statistics_alone_leave_out_what_nobody_asked_for(emoji, write_images, tmp_path, capsys):
    samples, real = (str(write_images(emoji[i : i + 9], str(i))) for i in (0, 9))
    file = str(tmp_path / "real.npz")
    assert main(["stats", "build", real, file, *EFFLITE0]) == 0
    capsys.readouterr()
    assert main(["eval", samples, "--ref", file, *EFFLITE0, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["metrics"]) == ["fd_efflite0"]
    assert "The reference has no images, so pr is left out." in captured.err
    assert main(["eval", samples, "--ref", file, *EFFLITE0, "--metrics", "pr"]) == 2


def test_class_sorted_samples_are_remarked(tmp_path, extractor, emoji):
    shades = torch.arange(0, 250, 10).to(torch.uint8).repeat_interleave(8)
    images = shades[:, None, None, None].expand(-1, 6, 6, 3).contiguous().clone()
    images[..., 1] = 255 - images[..., 0]
    np.savez(tmp_path / "sorted.npz", images.numpy())
    source = open_images(tmp_path / "sorted.npz")
    protocol = choose_protocol("adm", None, metrics=("is",), is_chunk=20)
    extractor.classifier.weight.copy_(
        torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0]] + [[0] * 4] * 3)
    )
    report = evaluate(source, source, extractor=extractor, protocol=protocol)
    (remark,) = [each for each in report.remarks if each.code == "CLASS_SORTED"]
    assert "in the file's order is" in remark.message


@pytest.mark.parametrize(("chunk", "remarked"), [(16, False), (15, True), (40, False)])
def test_a_short_last_chunk_of_the_inception_score_is_remarked(
    emoji, write_images, extractor, chunk, remarked
):
    source = open_images(write_images(emoji[:32], "samples"))
    protocol = choose_protocol("adm", None, metrics=("is",), is_chunk=chunk)
    report = evaluate(source, source, extractor=extractor, protocol=protocol, seed=3)
    found = [each.message for each in report.remarks if each.code == "SHORT_CHUNK"]
    assert len(found) == remarked
    if remarked:
        single_split = next(iter(report.scores.values())).details["single_split"]
        assert "The last of 3 chunks has 2 samples instead of 15" in found[0]
        assert f"In one piece the samples score {single_split:.2f}" in found[0]
    assert report.to_dict()["seed"] == 3


def test_a_last_chunk_that_takes_one_sample_more_is_not_called_short(
    emoji, write_images, extractor
):
    source = open_images(write_images(emoji[:31], "samples"))
    protocol = choose_protocol("adm", None, metrics=("is",), is_chunk=15)
    report = evaluate(source, source, extractor=extractor, protocol=protocol)
    assert next(iter(report.scores.values())).details["num_chunks"] == 2
    assert "SHORT_CHUNK" not in {each.code for each in report.remarks}


def test_kid_of_few_images_names_the_flag_that_helps(emoji, write_images, capsys):
    arguments = ["eval", str(write_images(emoji[:12], "a")), "--ref"]
    arguments += [str(write_images(emoji[12:30], "b")), *EFFLITE0, "--metrics", "kid"]
    assert main(arguments) == 2
    assert "--kid-subset-size of at most 12" in capsys.readouterr().err
    assert main([*arguments, "--kid-subset-size", "10", "--json", "-"]) == 0
    score = json.loads(capsys.readouterr().out)["metrics"]["kid_efflite0"]
    assert (score["subset_size"], score["n_samples"], score["n_ref"]) == (10, 12, 18)


@pytest.fixture(scope="module")
def shared_reports(emoji, write_shared_images):
    real = write_shared_images(emoji[40:80], "real")
    for number, images in enumerate((emoji[:20], emoji[20:40])):
        samples = str(write_shared_images(images, f"samples{number}"))
        file = str(real.with_name(f"{number}.json"))
        arguments = ["eval", samples, "--ref", str(real), *EFFLITE0, "--json", file]
        assert main([*arguments, "--metrics", "fid,pr"]) == 0
    return real.parent


@pytest.fixture
def reports(shared_reports, tmp_path):
    """Copies, since a test may change them."""
    return [copy(shared_reports / name, tmp_path / name) for name in ("0.json", "1.json")]


def compared(name, a, b):
    """The verdict on one score of two reports whose values are given, on a made-up report."""
    frame = {"protocol": {}, "extractor": {}}
    first, second = ({**frame, "metrics": {name: {"n_ref": 90, **score}}} for score in (a, b))
    (row,) = compare_reports(first, second)
    return row


def test_compare_prints_a_verdict_with_its_reason(reports, capsys):
    assert main(["compare", *map(str, reports)]) == 0
    table, warnings = capsys.readouterr()
    assert warnings == ""
    assert "within noise: N below the dimensions, so mostly bias and a rough error; " in table
    assert main(["compare", *map(str, reports), "--json", "-"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["differences"]}
    assert {row["verdict"] for row in rows.values()} <= {"within noise", "differs"}
    assert all(row["reason"] and row["se"] > 0 for row in rows.values())


def test_compare_holds_the_difference_against_the_combined_error():
    a = {"value": 0.5, "se": 0.03, "n_samples": 200}
    b = {"value": 0.6, "se": 0.04, "n_samples": 200}
    row = compared("precision", a, b)
    assert (row.se, row.verdict) == (pytest.approx(0.05), "differs")  # 0.1 is 2 of 0.05
    assert row.reason == "2.0 standard errors"
    row = compared("precision", a, b | {"value": 0.59})
    assert row.verdict == "within noise"
    assert row.reason == "1.8 standard errors; less than 0.098 cannot be told at this N"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("fid", "not comparable"),
        ("recall", "not comparable"),
        ("coverage_efflite0", "not comparable"),
        ("is", "not comparable"),
        ("cmmd", "not comparable"),
        ("precision", "differs"),  # these do not depend on the number of samples
        ("density", "differs"),
        ("kid_efflite0", "differs"),
        ("fd_efflite0_inf", "differs"),
    ],
)
def test_compare_refuses_other_counts_where_the_score_depends_on_them(name, verdict):
    a = {"value": 0.5, "se": 0.03, "n_samples": 200}
    row = compared(name, a, {"value": 0.9, "se": 0.04, "n_samples": 300})
    assert row.verdict == verdict
    assert ("score both with --limit 200" in row.reason) == (verdict == "not comparable")


def test_compare_takes_whole_chunks_of_the_inception_score_at_any_count():
    a = {"value": 5.0, "se": 0.3, "n_samples": 200, "chunk": 100}
    assert compared("is", a, a | {"n_samples": 300}).verdict == "within noise"
    a["chunk"] = 250
    assert compared("is", a, a | {"n_samples": 300}).verdict == "not comparable"
    a["chunk"] = 100
    row = compared("is", a, a | {"n_samples": 202})  # its last chunk, of 2, scores 2 at most
    assert (row.verdict, "--limit 200" in row.reason) == ("not comparable", True)


def test_compare_falls_back_on_distances_at_an_equal_count():
    a = {"value": 9.0, "se": 0.3, "n_samples": 200, "at_equal_count": {"value": 15.0, "n": 50}}
    b = {"value": 5.0, "se": 0.2, "n_samples": 450, "at_equal_count": {"value": 12.0, "n": 50}}
    row = compared("fid", a, b)
    assert (row.a, row.b, row.verdict) == (15.0, 12.0, "differs")
    assert row.se == pytest.approx(0.6 * 2**0.5)  # 0.3 sqrt(200 / 50), 0.2 sqrt(450 / 50)
    assert row.reason.startswith("at N = 50 of both, from subsets; 3.5 standard errors")
    b["at_equal_count"] = {"value": 12.0, "n": 45}
    assert compared("fid", a, b).verdict == "not comparable"


def test_compare_takes_subsets_of_one_seed_only():
    a = {"value": 9.0, "se": 0.3, "n_samples": 200, "at_equal_count": {"value": 15.0, "n": 50}}
    b = {"value": 5.0, "se": 0.2, "n_samples": 450, "at_equal_count": {"value": 12.0, "n": 50}}
    first, second = (
        {"protocol": {}, "extractor": {}, "seed": seed, "metrics": {"fid": {"n_ref": 90, **score}}}
        for seed, score in ((0, a), (1, b))
    )
    assert compare_reports(first, second)[0].verdict == "not comparable"
    second["seed"] = 0
    assert compare_reports(first, second)[0].verdict == "differs"


def test_compare_refuses_references_of_other_counts():
    a = {"value": 0.5, "se": 0.03, "n_samples": 200, "n_ref": 90}
    row = compared("precision", a, a | {"n_ref": 80})
    assert (row.verdict, row.reason[:30]) == ("not comparable", "90 and 80 reference images, on")
    assert compared("kid", a, a | {"n_ref": 80}).verdict == "within noise"


def test_compare_says_what_has_no_error():
    a = {"value": 0.5, "se": None, "n_samples": 200}
    row = compared("fid_inf", a, a)
    assert (row.verdict, row.se) == ("unknown", None)
    assert "no standard error" in row.reason


def test_compare_warns_of_other_references_and_equal_samples(reports, capsys, tmp_path):
    a, b = (json.loads(file.read_text()) for file in reports)
    b["reference"] |= {"fingerprint": "0", "path": "elsewhere"}
    b["samples"]["fingerprint"] = a["samples"]["fingerprint"]
    (tmp_path / "b.json").write_text(json.dumps(b))
    assert main(["compare", str(reports[0]), str(tmp_path / "b.json")]) == 0
    err = capsys.readouterr().err
    assert "elsewhere are other files" in err
    assert "of the same samples" in err


def test_compare_refuses_reports_of_other_commands(reports, capsys, tmp_path):
    a = json.loads(reports[0].read_text())
    del a["protocol"]
    (tmp_path / "recon.json").write_text(json.dumps(a))
    assert main(["compare", str(reports[0]), str(tmp_path / "recon.json")]) == 3
    assert "a report of another command" in capsys.readouterr().err


def test_compare_says_what_is_no_report(reports, capsys, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for path, found in (
        (tmp_path / "gone.json", "does not exist"),
        (tmp_path, "cannot be read"),
        (tmp_path / "broken.json", "is not JSON"),
    ):
        assert main(["compare", str(reports[0]), str(path)]) == 3
        assert f"got {path}, which {found}. Write it with" in capsys.readouterr().err


def test_compare_looks_at_constants_of_shared_scores_only(reports):
    a, b = (json.loads(file.read_text()) for file in reports)
    b["protocol"]["kid_subset_size"] = 7
    assert compare_reports(a, b)
    b["protocol"]["neighbours"] = 7
    with pytest.raises(BadInput, match="neighbours is 3 in one and 7 in the other"):
        compare_reports(a, b)
    del b["metrics"]["precision_efflite0"], b["metrics"]["recall_efflite0"]
    assert [row.name for row in compare_reports(a, b)] == ["fd_efflite0"]


def test_compare_refuses_reports_made_differently(reports, tmp_path, capsys):
    other = json.loads(reports[1].read_text())
    other["extractor"]["weights_sha256"] = "0000"
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert main(["compare", str(reports[0]), str(tmp_path / "other.json")]) == 3
    assert "extractor.weights_sha256 is 57934" in capsys.readouterr().err
    (tmp_path / "list.json").write_text("[]")
    assert main(["compare", str(reports[0]), str(tmp_path / "list.json")]) == 3
    assert "schema genmetrics/1" in capsys.readouterr().err


def test_the_protocol_of_dgm_eval_has_its_neighbours():
    protocol = PROTOCOLS["dinov2"]
    assert protocol.neighbours == 5
    assert "dgm-eval" in protocol.source
    assert "border included" in protocol.source
    assert {each.neighbours for name, each in PROTOCOLS.items() if name != "dinov2"} == {3}


def test_protocols_are_printed_with_every_constant(capsys):
    assert main(["protocols", "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["protocols"]) == set(PROTOCOLS)
    assert printed["protocols"]["adm"]["is_chunk"] == 5000
    assert main(["protocols"]) == 0
    assert "openai/guided-diffusion" in capsys.readouterr().out
