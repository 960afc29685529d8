import os
import pickle
from pathlib import Path

import pytest
import torch
import torch_fidelity
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)

from genmetrics import WeightsUnavailable, choose_protocol, evaluate, get_extractor, open_images
from genmetrics.networks.inception import (
    WEIGHTS_FILE,
    WEIGHTS_VARIABLE,
    find_inception_weights,
    spatial_features,
    tf1_bilinear,
)
from genmetrics.networks.weights import FOLDER_VARIABLE, sha256_of


class RandomInception(FeatureExtractorInceptionV3):
    """torch-fidelity's network before it loads weights."""

    def load_state_dict(self, state):
        assert state == {}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights with activations that neither vanish nor explode."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "none.pth")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RandomInception(
            "random", ["2048"], feature_extractor_weights_path=folder / "none.pth"
        )
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        network.fc.weight.data *= 50  # so that classes differ from image to image
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def test_features_and_logits_are_torch_fidelitys_own_from_one_pass(weights, emoji):
    images = torch.from_numpy(emoji[:2]).movedim(-1, 1)
    reference = FeatureExtractorInceptionV3(
        "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    maps = []
    reference.Mixed_6d.branch1x1.register_forward_hook(lambda *call: maps.append(call[-1]))
    pool3, logits = reference(images)
    spatial = torch.stack(
        [maps[0][:, c, y, x] for y in range(17) for x in range(17) for c in range(7)]
    )

    extractor = get_extractor("inception", weights=weights)
    passes = []
    extractor.network.layers["Conv2d_1a_3x3"].register_forward_hook(lambda *_: passes.append(1))
    features = extractor(images)
    assert {k: v.shape for k, v in features.items()} == {"pool3": (2, 2048), "spatial": (2, 2023)}
    found = (features["pool3"], features["spatial"], extractor.logits(features["pool3"]))
    assert len(passes) == 1
    for values, expected in zip(found, (pool3, spatial.T, logits), strict=True):
        assert values.dtype == torch.float32
        assert (expected[0] - expected[1]).norm() > 1e-3 * expected.norm()
        torch.testing.assert_close(
            values, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item()
        )


@pytest.fixture(scope="module")
def both_pipelines(weights, emoji, tmp_path_factory):
    """torch-fidelity's own scores of two folders of pictures, and ours.

    Where it draws at random it is asked for what no draw changes: samples unshuffled, one KID
    subset that is the whole set.
    """
    n, folders = 8, []
    for name, images in (("samples", emoji[:n] // 2 + 100), ("real", emoji[n : 2 * n])):
        folders.append(tmp_path_factory.mktemp(name))
        for index, image in enumerate(images):
            Image.fromarray(image).save(folders[-1] / f"{index:02}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        feature_extractor="inception-v3-compat",  # its precision and recall are of VGG16 otherwise
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(weights),
        samples_shuffle=False,
        isc_splits=2,
        kid_subsets=1,
        kid_subset_size=n,
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # read in this process
        verbose=False,
    )
    ours = evaluate(
        *(open_images(folder) for folder in folders),
        extractor=get_extractor("inception", weights=weights),
        protocol=choose_protocol(
            "adm",
            None,
            metrics=("fid", "is", "pr", "kid"),
            is_chunk=n // 2,
            kid_subsets=1,
            kid_subset_size=n,
        ),
    )
    return theirs, ours


# Both run one network in float32 on inputs that their resizes round differently (6e-5 of 255). That
# moves these scores by 2e-7, 3e-6 and 2e-5; another resize or normalisation by 1e-2 and more.
def test_fid_is_that_of_torch_fidelitys_whole_pipeline(both_pipelines):
    theirs, ours = both_pipelines
    assert ours["fid"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_kid_is_that_of_torch_fidelitys_whole_pipeline(both_pipelines):
    theirs, ours = both_pipelines
    expected = theirs["kernel_inception_distance_mean"]
    assert ours["kid"].value == pytest.approx(expected, rel=1e-4)


def test_inception_score_in_file_order_is_that_of_torch_fidelitys_whole_pipeline(both_pipelines):
    theirs, ours = both_pipelines
    expected = theirs["inception_score_mean"] - 1
    assert ours["is"].details["file_order_mean"] - 1 == pytest.approx(expected, rel=1e-3)
    assert expected > 0.01


def test_precision_and_recall_count_as_torch_fidelitys_whole_pipeline(both_pipelines):
    theirs, ours = both_pipelines
    counts = [round(8 * theirs[name]) for name in ("precision", "recall")]
    assert [8 * ours[name].value for name in ("precision", "recall")] == counts
    assert counts[0] != counts[1]


def test_spatial_features_run_over_rows_then_columns_then_channels():
    maps = torch.zeros(1, 9, 17, 17)
    maps[0, 4, 2, 11] = 1
    maps[0, 8, 0, 0] = 1  # beyond the 7 channels
    assert spatial_features(maps).nonzero().tolist() == [[0, (2 * 17 + 11) * 7 + 4]]
    assert spatial_features(maps).shape == (1, 2023)


@pytest.mark.parametrize(
    "size", [(256, 256), (64, 50), (299, 512), (1, 3), (333, 298)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_resize_by_matrices_is_torch_fidelitys_within_rounding(size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    torch.testing.assert_close(tf1_bilinear(images, 299), expected, rtol=0, atol=6e-5)


def test_a_default_of_float64_changes_no_features_and_logits(weights, emoji, in_float64):
    def outputs():
        extractor = get_extractor("inception", weights=weights)
        features = extractor(torch.from_numpy(emoji[:2]).movedim(-1, 1))
        return {**features, "logits": extractor.logits(features["pool3"])}

    wanted = outputs()
    with in_float64():
        found = outputs()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_only_inception_may_be_called_fid(weights):
    extractor = get_extractor("inception", weights=weights)
    assert (extractor.frechet_name, extractor.inception_score_name) == ("fid", "is")
    assert get_extractor("efflite0").frechet_name == "fd_efflite0"


def test_weights_other_than_the_papers_are_remarked_upon(weights, emoji, write_images):
    source = open_images(write_images(emoji[:2]))
    extractor = get_extractor("inception", weights=weights)
    assert extractor.weights_sha256 == sha256_of(weights)
    report = evaluate(source, source, extractor=extractor)
    assert "OTHER_WEIGHTS" in [remark.code for remark in report.remarks]


def test_weights_are_looked_for_in_argument_variable_and_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / WEIGHTS_FILE
    cached.parent.mkdir(parents=True)
    for file in (cached, tmp_path / "named.pth", tmp_path / "variable.pth"):
        file.touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / WEIGHTS_FILE).touch()
    folder = {FOLDER_VARIABLE: str(tmp_path / "folder")}
    variable = folder | {WEIGHTS_VARIABLE: str(tmp_path / "variable.pth")}
    assert find_inception_weights(tmp_path / "named.pth", variable) == tmp_path / "named.pth"
    assert find_inception_weights(None, variable) == tmp_path / "variable.pth"
    assert find_inception_weights(None, folder) == tmp_path / "folder" / WEIGHTS_FILE
    assert find_inception_weights(None, {}) == cached


def test_missing_weights_name_file_variable_and_alternative(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(WeightsUnavailable) as caught:
        get_extractor("inception")
    for part in (WEIGHTS_FILE, WEIGHTS_VARIABLE, "--extractor efflite0", str(tmp_path)):
        assert part in str(caught.value)


def test_what_is_nowhere_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def download(url, target, prefix, *, progress):
        asked.append((url.rpartition("/")[2], prefix))
        Path(target).touch()

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    cached = tmp_path / "hub" / "checkpoints" / WEIGHTS_FILE
    assert find_inception_weights(None, {}) == cached
    assert find_inception_weights(None, {}) == cached
    assert asked == [(WEIGHTS_FILE, "6726825d")]


@pytest.mark.parametrize(
    ("environment", "download", "reason"),
    [
        ({"GENMETRICS_OFFLINE": "1"}, None, "and downloads are switched off. Fetch https://"),
        ({"HF_HUB_OFFLINE": "1"}, None, "and downloads are switched off. Fetch https://"),
        ({}, False, "and downloads are switched off. Fetch https://"),
        ({}, None, "the download failed (invalid hash value). Fetch https://"),
    ],
)
def test_what_cannot_be_downloaded_is_a_sentence(
    environment, download, reason, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def fail(*given, progress):
        asked.append(given)
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsUnavailable) as caught:
        find_inception_weights(None, environment, download=download)
    assert reason in str(caught.value)
    assert WEIGHTS_VARIABLE in str(caught.value)
    assert bool(asked) == ("failed" in reason)


def test_a_variable_that_points_nowhere_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    with pytest.raises(WeightsUnavailable, match=r"gone\.pth"):
        find_inception_weights(None, {WEIGHTS_VARIABLE: str(tmp_path / "gone.pth")})


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path):
    file, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"x": Attack(os.fspath(trace))}, file)
    with pytest.raises(WeightsUnavailable, match=r"state dict in .*evil\.pth"):
        get_extractor("inception", weights=file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "state dict in"),
        (b"", "state dict in"),
        (pickle.dumps({"a": Path}, protocol=2), "state dict in"),
        ([1], "dictionary of tensors"),
        ({"epoch": 3}, "dictionary of tensors"),
        ({"a": torch.zeros(1)}, "torch-fidelity's Inception weights"),
    ],
    ids=["text", "empty", "pickle", "list", "numbers", "another network"],
)
def test_files_of_something_else_are_refused(tmp_path, content, message):
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(WeightsUnavailable, match=message):
        get_extractor("inception", weights=file)
