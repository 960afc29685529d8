from dataclasses import replace

import pytest
import torch

from genmetrics import UsageError, extract_features, get_extractor
from genmetrics.cli import main
from genmetrics.networks.conformance import check_extractor
from genmetrics.networks.extractor_names import plugin_extractors
from genmetrics.networks.extractors import Extractor


class Means(torch.nn.Module):
    """Mean colours, changed by a fault."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault or (lambda means: {"main": means, "more": means[:, :2]})

    def forward(self, images):
        return self.fault(images.float().mean((2, 3)) / 255)


def means(fault=None, **changes):
    network = Means(fault).eval()
    outputs = {"main": 3, "more": 2}
    extractor = Extractor("means", outputs, "mean", "ab12", network, torch.device("cpu"))
    return replace(extractor, **changes)


def two(main):
    return {"main": main, "more": main[:, :2]}


def raise_error(means):
    raise RuntimeError("no such kernel")


noise = torch.Generator().manual_seed(0)


def test_a_good_network_has_no_faults():
    assert check_extractor(means()) == []


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (lambda x: two(x.double()), "Expected main in float32; got torch.float64."),
        (lambda x: two(x[:, :2]), "Expected main of shape (3, 3); got (3, 2)."),
        (lambda x: two(x[:1]), "Expected main of shape (3, 3); got (1, 3)."),
        (lambda x: {"main": x}, "Expected the outputs ['main', 'more']; got ['main']."),
        (lambda x: two(x / 0 * 0), "Expected finite main; got NaN or infinity."),
        (
            lambda x: two(x + torch.rand(x.shape, generator=noise)),
            "Expected main to be the same on a second call; got others.",
        ),
        (
            lambda x: two(x - x.mean(0)),
            "Expected main of an image not to depend on its batch; got others alone.",
        ),
        (
            lambda x: two(torch.ones_like(x)),
            "Expected main to differ between images; got the same.",
        ),
        (raise_error, "got RuntimeError: no such kernel."),
        (lambda x: x, "got TypeError: a Tensor in place of a dictionary of outputs."),
    ],
    ids=[
        "dtype",
        "width",
        "rows",
        "names",
        "finite",
        "random",
        "batch",
        "constant",
        "raise",
        "type",
    ],
)
def test_each_fault_has_its_sentence(fault, sentence):
    problems = check_extractor(means(fault))
    assert any(problem.endswith(sentence) for problem in problems), problems
    assert len(problems) <= 2


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda x: two(x[:, :2]), r"got main \(4, 2\), more \(4, 2\)\."),
        (lambda x: two(x[:1]), r"got main \(1, 3\), more \(1, 2\)\."),
        (lambda x: {"main": x}, r"got main \(4, 3\)\."),
        (lambda x: {**two(x), "third": x}, r"got main \(4, 3\), more \(4, 2\), third \(4, 3\)\."),
        (lambda x: x, r"got float32 \(4, 3\)\."),
    ],
    ids=["width", "rows", "missing", "undeclared", "tensor"],
)
def test_outputs_that_were_not_declared_are_refused_when_they_come(fault, found):
    images = torch.zeros(4, 3, 5, 6, dtype=torch.uint8)
    wanted = r"Expected main \(4, 3\), more \(4, 2\) from the network of means; "
    with pytest.raises(UsageError, match=wanted + found):
        extract_features(images, means(fault))


def test_declarations_are_checked():
    trained = means()
    trained.network.train()
    assert check_extractor(trained) == ["Expected the network in eval mode; got training mode."]
    thawed = means()
    thawed.network.bias = torch.nn.Parameter(torch.zeros(1))
    assert "require gradients" in check_extractor(thawed)[0]
    assert "preprocess_id" in check_extractor(means(preprocess_id=""))[0]


PLUGIN = """
import torch
from genmetrics import Extractor

class Corner(torch.nn.Module):
    def forward(self, images):
        return {"corner": images[:, :, 0, 0].float() / 255}

def corner(weights, device):
    digest = "none" if weights is None else weights.read_text()
    return Extractor(
        "corner", {"corner": 3}, "x/255", digest, Corner().eval(), torch.device(device)
    )

def wrong(weights, device):
    return "no extractor"

def raises(weights, device):
    raise KeyError(device)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package with two entry points, one of which takes a built-in name too."""
    (tmp_path / "corner_plugin.py").write_text(PLUGIN)
    information = tmp_path / "corner_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: corner-plugin\nVersion: 1\n"
    )
    (information / "entry_points.txt").write_text(
        "[genmetrics.extractors]\ncorner = corner_plugin:corner\nwrong = corner_plugin:wrong\n"
        "efflite0 = corner_plugin:corner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_plugin_is_found_built_and_conforms(plugin):
    assert list(plugin_extractors()) == ["corner", "wrong"]
    (plugin / "w.txt").write_text("cafe")
    extractor = get_extractor("corner", weights=plugin / "w.txt", device="cpu")
    assert extractor.weights_sha256 == "cafe"
    assert extractor.frechet_name == "fd_corner"
    assert check_extractor(extractor) == []


def test_a_plugin_does_not_replace_a_built_in_network(plugin):
    assert get_extractor("efflite0").outputs == {"features": 1280}


def test_a_plugin_that_returns_something_else_is_named(plugin):
    with pytest.raises(UsageError, match=r"plugin wrong \(corner_plugin:wrong\); got str"):
        get_extractor("wrong")


def test_the_command_line_takes_and_lists_plugins(plugin, emoji, write_images, capsys):
    folder = str(write_images(emoji[:2]))
    out = str(plugin / "x.npz")
    assert main(["features", folder, out, "--extractor", "corner"]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["features", folder, out, "--extractor", "korner"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "inception, efflite0, dinov2, clip, corner, wrong, timm:NAME" in error
    assert "Did you mean corner?" in error


def test_the_command_line_takes_a_factory_of_a_module_in_the_folder(
    plugin, emoji, write_images, capsys, monkeypatch
):
    monkeypatch.chdir(plugin)
    samples, real = str(write_images(emoji[:5], "a")), str(write_images(emoji[5:9], "b"))
    assert main(["stats", "build", real, "b.npz", "--extractor", "corner_plugin:corner"]) == 0
    for reference in (real, "b.npz"):
        argv = ["fid", samples, reference, "--extractor", "corner_plugin:corner"]
        assert main(argv) == 0
        assert "fd_corner " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such:f", r"Expected no_such:f to name a function .*'No module named 'no_such''"),
        ("tim:resnet18", r"'No module named 'tim''.* Did you mean timm\?"),
        ("corner_plugin:f", r"has no attribute 'f'"),
        ("corner_plugin:wrong", r"Expected an Extractor from corner_plugin:wrong; got str\."),
        (
            "corner_plugin:raises",
            r"corner_plugin:raises to return an Extractor; it raised KeyError",
        ),
        ("corner_plugin:Corner()", r"Expected an extractor \(.*PKG\.MOD:FACTORY\); got"),
    ],
)
def test_factories_that_give_no_network_are_told_why(plugin, name, sentence):
    with pytest.raises(UsageError, match=sentence):
        get_extractor(name)


def test_without_plugins_there_are_none():
    assert plugin_extractors() == {}
