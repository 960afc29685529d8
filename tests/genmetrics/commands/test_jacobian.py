import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from genmetrics.cli import main

MODEL = """
import torch
from torch import nn

SCALES = torch.tensor([4.0, 1.0, 0.5])


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.scales = nn.Parameter(SCALES.clone())

    def forward(self, z):
        return self.scales * z, self.scales.abs().log().sum().expand(len(z))


class Token:
    def __init__(self, flow):
        self.flow = flow

    def __call__(self, z):
        return self.flow(z)[0]

    def log_scale(self, z):
        return -self.flow.scales.log().expand_as(z)

    def permute(self, z):
        return z

    unpermute = permute


class Parts:
    def __init__(self):
        self.flow = Affine()
        self.inverse = lambda u: u / self.flow.scales
        self.blocks = [Token(self.flow)]


class Strange(Parts):
    def __init__(self):
        super().__init__()
        self.blocks = [nn.Linear(3, 3)]


class NoFlow:
    flow = 3


def broken():
    raise KeyError("no checkpoint")


def ill():
    scales = torch.logspace(0, -5, 101).double()
    return lambda z: scales * z


def singular():
    return lambda z: z * torch.tensor([1.0, 1.0, 1e-20], dtype=z.dtype)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "toy_flow_of_the_tests.py").write_text(MODEL)
    (tmp_path / "raises_at_import.py").write_text("raise KeyError('no data')")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "z.npz", z=rng.normal(size=(5, 2, 3)), wide=rng.normal(size=(2, 101)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def argv(factory, *options, latents="z.npz"):
    model = f"toy_flow_of_the_tests:{factory}"
    return ["jacobian", "--model", model, "--latents", latents, "--device", "cpu", *options]


def report(capsys, *arguments):
    assert main(argv(*arguments, "--json", "-")) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_has_the_ends_of_the_spectrum(folder, capsys):
    assert main(argv("Affine")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[1].split()[:2] == ["sigma_max", "4"]
    assert lines[2].split()[:2] == ["sigma_min", "0.5"]
    assert lines[3].split()[:2] == ["log10_kappa", "0.9031"]
    assert "5 samples, 5 converged, 5 resolved" in out
    assert "log-determinant consistent in 0 of 5" in out  # it counts 3 of the 6 dimensions


@pytest.mark.parametrize(
    ("smin", "method"),
    [("auto", "triangular+gkl"), ("inverse", "inverse+gkl"), ("cg", "cg")],
)
def test_all_parts_of_the_model_are_used(folder, capsys, smin, method):
    found = report(capsys, "Parts", "--method", "gkl", "--smin", smin)
    assert found["schema"] == "genmetrics/1"
    assert found["model"] == "toy_flow_of_the_tests:Parts"
    jacobian = found["jacobian"]
    assert jacobian["methods"] == {"sigma_max": "gkl", "sigma_min": method}
    assert jacobian["samples"][4]["sigma_min"] == pytest.approx(0.5, rel=1e-5)
    assert jacobian["samples"][4]["ln_kappa"] == pytest.approx(math.log(8), rel=1e-5)


def test_options_reach_the_estimate(folder, capsys):
    options = ["--method", "power", "--smin", "cg", "--delta", "1e-5", "--tol", "1e-2"]
    options += ["--max-products", "40", "--dtype", "float32", "--seed", "7", "--jvp", "differences"]
    assert report(capsys, "Affine", *options)["jacobian"]["settings"] == {
        "method": "power",
        "smin": "cg",
        "delta": 1e-5,
        "tol": 1e-2,
        "max_products": 40,
        "dtype": "float32",
        "seed": 7,
        "jvp": "differences",
    }


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        ([], ("exact", "exact")),
        (["--method", "exact"], ("exact", "exact")),
        (["--smin", "cg"], ("gkl", "cg")),
        (["--smin", "inverse"], ("gkl", "inverse")),
        (["--smin", "triangular"], ("gkl", "triangular")),
    ],
)
def test_the_method_of_sigma_min_that_was_asked_for_is_used_and_recorded(
    folder, capsys, options, methods
):
    found = report(capsys, "Parts", *options)["jacobian"]
    assert (found["settings"]["method"], found["settings"]["smin"]) == methods
    assert found["methods"]["sigma_min"].split("+")[0] == methods[1]


def test_samples_are_chosen_by_the_seed_and_batches_join(folder, capsys):
    whole, parts = (
        report(capsys, "Affine", "--samples", "3", "--batch-size", size)["jacobian"]
        for size in ("3", "2")
    )
    assert whole["n"] == parts["n"] == 3
    assert whole["samples"] == parts["samples"]


def test_what_did_not_converge_is_said_and_strict_exits_5(folder, capsys):
    options = ["--key", "wide", "--method", "gkl", "--smin", "cg", "--max-products", "100"]
    assert main(argv("ill", *options)) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: 2 of 2 samples are not certified")
    assert main(argv("ill", *options, "--strict")) == 5
    strict_out, err = capsys.readouterr()
    assert strict_out == out
    assert err.endswith("give the model blocks or an inverse.\n")
    assert main(argv("Affine", "--strict")) == 0


def test_an_unresolved_end_is_null_with_a_reason(folder, capsys):
    found = report(capsys, "singular")["jacobian"]
    sample = found["samples"][0]
    assert sample["sigma_min"] is sample["log10_kappa"] is None
    assert sample["reason"].startswith("unresolved")
    assert found["summary"]["sigma_min"] == {"n": 0}


def test_the_plot_has_earlier_reports_beside(folder, capsys):
    assert main(argv("Parts", "--json", "first.json")) == 0
    assert main(argv("singular", "--json", "second.json")) == 0
    assert main(argv("Affine", "--plot", "one.png")) == 0
    beside = ["--beside", "first.json", "--beside", "second.json"]
    assert main(argv("Affine", "--plot", "three.svg", *beside)) == 0
    with Image.open("one.png") as image:
        assert image.size[0] > 1500
    drawn = (folder / "three.svg").read_text()
    for name in ("first (n = 5)", "second (n = 5, 5 unresolved)", "Affine (n = 5)"):
        assert name in drawn


def test_earlier_reports_of_one_file_name_are_told_apart_by_their_folders(folder):
    beside = []
    for name, factory in (("ra/spec", "Parts"), ("rb/spec", "singular"), ("rb/Affine", "Affine")):
        (folder / name).parent.mkdir(exist_ok=True)
        assert main(argv(factory, "--json", f"{name}.json")) == 0
        beside += ["--beside", f"{name}.json"]
    assert main(argv("Affine", "--plot", "four.svg", *beside)) == 0
    drawn = (folder / "four.svg").read_text()
    for name in ("ra/spec (n = 5)", "rb/spec (n = 5, 5 unresolved)", "rb/Affine (n = 5)"):
        assert f"<!-- {name} -->" in drawn
    assert "<!-- Affine (n = 5) -->" in drawn


def test_earlier_reports_that_cannot_be_told_apart_are_refused_before_the_work(folder, capsys):
    assert main(argv("Parts", "--json", "first.json")) == 0
    capsys.readouterr()
    beside = ["--beside", "first.json", "--beside", "first.json"]
    assert main(argv("broken", "--plot", "x.svg", *beside)) == 2
    err = capsys.readouterr().err
    assert f"got {folder.name}/first more than once. Rename a file" in err
    assert not (folder / "x.svg").exists()


def test_a_missing_matplotlib_is_told_before_the_work(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(argv("broken", "--plot", "x.png")) == 2
    assert "Expected the package matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (argv("Gone"), 2, "can be imported"),
        (["jacobian", "--model", "no_such_module:f", "--latents", "z.npz"], 2, "can be imported"),
        (
            ["jacobian", "--model", "raises_at_import:f", "--latents", "z.npz"],
            2,
            "raises_at_import to be imported; got KeyError: 'no data'",
        ),
        (["jacobian", "--model", "justaname", "--latents", "z.npz"], 2, "package.module:factory"),
        (argv("Strange"), 2, "got Linear"),
        (argv("broken"), 2, "it raised KeyError: 'no checkpoint'"),
        (argv("NoFlow"), 2, "got NoFlow"),
        (argv("Affine", "--smin", "inverse", "--method", "gkl"), 2, "inverse for smin"),
        (argv("Affine", "--smin", "cg", "--method", "exact"), 2, "smin='auto' for method='exact'"),
        (argv("Affine", "--tol", "0"), 2, "above 0"),
        (argv("Affine", "--beside", "first.json"), 2, "--plot with --beside"),
        (argv("Affine", "--plot", "no/such/x.png"), 2, "existing folder"),
        (argv("Affine", "--json", "no/such/x.json"), 2, "existing folder"),
        (argv("Affine", "--plot", "x.png", "--beside", "z.npz"), 3, "a report of"),
        (argv("Affine", latents="gone.npz"), 3, "an .npz file; got gone.npz, which is none"),
        (argv("Affine", "--key", "x"), 3, "an array x"),
        (argv("Affine", "--key", "wide"), 2, "of shape (2, 101); it raised RuntimeError: The size"),
    ],
)
def test_mistakes_are_one_sentence(folder, capsys, arguments, code, message):
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
