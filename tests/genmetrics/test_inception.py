import os
import pickle
from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from genmetrics import UsageError, WeightsUnavailable, evaluate, get_extractor, open_images
from genmetrics.inception import WEIGHTS_FILE, WEIGHTS_VARIABLE, find_inception_weights
from genmetrics.weights import sha256_of


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
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def test_features_are_torch_fidelitys_own(weights, emoji):
    images = torch.from_numpy(emoji[:2]).movedim(-1, 1)
    reference = FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=str(weights)
    )
    (expected,) = reference(images)
    extractor = get_extractor("inception", weights=weights)
    features = extractor(images)
    assert features.dtype == torch.float32
    assert features.shape == (2, extractor.dim)
    assert expected.std() > 1e-3
    assert (expected[0] - expected[1]).norm() > 1e-3 * expected.norm()
    torch.testing.assert_close(
        features, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item()
    )


def test_only_inception_may_be_called_fid(weights):
    assert get_extractor("inception", weights=weights).frechet_name == "fid"
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
    variable = {WEIGHTS_VARIABLE: str(tmp_path / "variable.pth")}
    assert find_inception_weights(tmp_path / "named.pth", variable) == tmp_path / "named.pth"
    assert find_inception_weights(None, variable) == tmp_path / "variable.pth"
    assert find_inception_weights(None, {}) == cached


def test_missing_weights_name_file_variable_and_alternative(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(WeightsUnavailable) as caught:
        get_extractor("inception")
    for part in (WEIGHTS_FILE, WEIGHTS_VARIABLE, "--extractor efflite0", str(tmp_path)):
        assert part in str(caught.value)


def test_a_variable_that_points_nowhere_is_not_passed_over(tmp_path):
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


def test_unknown_extractor_of_the_function_behind_the_types():
    unchecked = getattr(get_extractor, "__wrapped__", get_extractor)
    while hasattr(unchecked, "__wrapped__"):
        unchecked = unchecked.__wrapped__
    with pytest.raises(UsageError, match="inception or efflite0; got 'vgg'"):
        unchecked("vgg")
