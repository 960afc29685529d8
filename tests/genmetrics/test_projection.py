import builtins
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from genmetrics.errors import BadInput, NumericalFailure, UsageError
from genmetrics.plots import _SERIES, Extremes, _class_looks, plot_latents, plot_spectra
from genmetrics.projection import project


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def fake_umap(monkeypatch):
    """UMAP takes half a minute to compile; record what it would have been asked."""
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, rows, labels):
            asked.update(rows=rows, labels=labels)
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    return asked


@pytest.mark.parametrize(("n", "d"), [(23, 7), (7, 23)])
def test_principal_components_are_those_of_the_svd(n, d):
    x = gaussian(n, d) * torch.logspace(0, 1, d)
    left, values, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = left[:, :2] * values[:2]
    found = project(x, method="pca")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double().abs(), expected.abs(), rtol=1e-4, atol=1e-5)
    peaks = found.gather(0, found.abs().argmax(0, keepdim=True))
    assert (peaks > 0).all()


def test_principal_components_do_not_depend_on_the_signs_of_the_features():
    x = gaussian(23, 7)
    torch.testing.assert_close(
        project(x, method="pca"), project(x + 100, method="pca"), rtol=1e-4, atol=1e-4
    )


def test_one_feature_leaves_the_second_axis_empty():
    found = project(gaussian(5, 1), method="pca")
    assert found.shape == (5, 2)
    assert not found[:, 1].any()


def test_umap_is_asked_for_what_the_caller_wants(fake_umap):
    x, labels = gaussian(9, 3), torch.arange(9)
    found = project(x, labels, n_neighbors=5, min_dist=0.3, metric="euclidean", seed=7)
    rows = fake_umap.pop("rows")
    np.testing.assert_allclose(rows, x, rtol=1e-6)
    assert (rows.dtype, fake_umap.pop("labels").tolist()) == (np.float32, list(range(9)))
    assert fake_umap == {
        "n_components": 2,
        "n_neighbors": 5,
        "min_dist": 0.3,
        "metric": "euclidean",
        "random_state": 7,
        "n_jobs": 1,
    }
    torch.testing.assert_close(found, x[:, :2].float())


def test_umap_knows_no_classes_by_default(fake_umap):
    project(gaussian(17, 3))
    assert fake_umap["labels"] is None
    assert (fake_umap["metric"], fake_umap["n_neighbors"]) == ("cosine", 15)


@pytest.mark.slow
def test_umap_keeps_clusters_together():
    x = torch.cat([gaussian(30, 8) + 20 * torch.eye(8)[i] for i in range(3)])
    found = project(x, seed=3)
    assert (found.dtype, found.shape) == (torch.float32, (90, 2))
    labels = torch.arange(3).repeat_interleave(30)
    nearest = torch.cdist(found, found).fill_diagonal_(torch.inf).argmin(1)
    assert (labels[nearest] == labels).all()
    assert torch.equal(found, project(x, seed=3))


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("umap", r"\[plot\], or choose pca, which needs matplotlib alone, for the picture\."),
        ("matplotlib", r"\[plot\]\."),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, package, message):
    real = importlib.import_module

    def absent(name, *rest):
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    use = {"umap": lambda: project(gaussian(20, 3)), "matplotlib": lambda: plot(tmp_path / "x.png")}
    with pytest.raises(UsageError, match="Install genmetrics" + message):
        use[package]()


def test_a_class_name_that_the_font_lacks_is_drawn_without_a_warning(tmp_path):
    labels = torch.arange(5) % 2
    plot_latents(gaussian(5, 2), tmp_path / "x.png", labels=labels, names={1: "日本"})
    assert (tmp_path / "x.png").exists()


def plot(file):
    plot_latents(gaussian(5, 2), file)


def test_principal_components_need_no_other_package(monkeypatch):
    real = builtins.__import__

    def guarded(name, *rest):
        assert name.partition(".")[0] not in ("umap", "sklearn", "matplotlib")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert project(gaussian(5, 3), method="pca").shape == (5, 2)


def test_too_few_rows_are_refused(fake_umap):
    with pytest.raises(BadInput, match="at least 16 rows for umap; got 15"):
        project(gaussian(15, 3))
    with pytest.raises(BadInput, match="at least 2 rows for pca"):
        project(gaussian(1, 3), method="pca")


@pytest.mark.parametrize("n_neighbors", [1, 0, -3])
def test_less_than_two_neighbours_are_refused(fake_umap, n_neighbors):
    with pytest.raises(UsageError, match=rf"at least 2; got {n_neighbors}\. Take more"):
        project(gaussian(5, 3), n_neighbors=n_neighbors)
    assert project(gaussian(5, 3), method="pca", n_neighbors=n_neighbors).shape == (5, 2)


def test_features_that_are_not_numbers_are_refused():
    x = gaussian(5, 3)
    x[2, 1] = torch.nan
    with pytest.raises(NumericalFailure, match=r"1 of 5 rows \(2\)"):
        project(x, method="pca")


def colours_in(file):
    """The colours of a picture that are not grey."""
    pixels = np.array(Image.open(file).convert("RGB")).reshape(-1, 3).astype(int)
    return {tuple(p) for p in pixels[np.ptp(pixels, axis=1) > 60]}


def ink_right_of(file, share):
    grey = np.array(Image.open(file).convert("L"))
    return int((grey[:, int(share * grey.shape[1]) :] < 250).sum())


def test_classes_have_colours_and_a_legend_while_it_can_be_read(tmp_path):
    x = gaussian(200, 2) * torch.tensor([0.2, 1.0])
    labels = torch.arange(200) % 25
    for name, count in (("few", 3), ("many", 20), ("crowd", 25)):
        keep = labels < count
        plot_latents(x[keep], tmp_path / f"{name}.png", labels=labels[keep])
    plot_latents(x, tmp_path / "none.png")
    assert len(colours_in(tmp_path / "none.png")) < len(colours_in(tmp_path / "few.png"))
    assert ink_right_of(tmp_path / "few.png", 0.92) > 20
    assert ink_right_of(tmp_path / "many.png", 0.92) > 20
    assert ink_right_of(tmp_path / "crowd.png", 0.92) == 0


def test_every_class_of_a_legend_has_a_look_of_its_own_in_safe_colours():
    for count in (1, 7, 8, 21):
        looks = _class_looks(None, count)
        assert len(set(looks)) == count
        assert {look.colour for look in looks} <= set(_SERIES)


def test_names_replace_numbers_in_the_legend(tmp_path):
    x, labels = gaussian(20, 2), torch.arange(20) % 2
    plot_latents(x, tmp_path / "x.svg", labels=labels, names={1: "goldfish"}, title="latents")
    # Text is drawn as paths, which the source names in comments.
    drawn = (tmp_path / "x.svg").read_text()
    assert "<!-- goldfish -->" in drawn
    assert "<!-- 0 -->" in drawn
    assert "<!-- latents -->" in drawn


@pytest.mark.parametrize(
    ("name", "shown"),
    [("caf\udce9", r"caf\udce9"), ("$x_{$", "$x_{$"), ("$0-$50", "$0-$50"), ("café", "café")],
    ids=["no UTF-8", "no formula", "prices", "accent"],
)
def test_names_and_titles_are_shown_literally(tmp_path, name, shown, monkeypatch):
    monkeypatch.setitem(importlib.import_module("matplotlib").rcParams, "svg.fonttype", "none")
    x, labels = gaussian(20, 2), torch.arange(20) % 2
    plot_latents(x, tmp_path / "x.svg", labels=labels, names={1: name}, title=f"of {name}")
    ones = torch.ones(3)
    plot_spectra({name: Extremes(ones, ones, ones)}, tmp_path / "y.svg")
    map_, histograms = (
        (tmp_path / f"{each}.svg").read_text(encoding="utf-8") for each in ("x", "y")
    )
    assert f">{shown}</text>" in map_
    assert f">of {shown}</text>" in map_
    assert f">{shown} (n = 3)</text>" in histograms
    plot_latents(x, tmp_path / "x.png", labels=labels, names={1: name}, title=name)


def test_spectra_stand_side_by_side(tmp_path):
    s = gaussian(64, 3).exp()
    extremes = Extremes(10 + s[:, 0], s[:, 1], torch.log10((10 + s[:, 0]) / s[:, 1]))
    extremes.sigma_min[:5] = torch.nan
    extremes.log10_kappa[:5] = torch.nan
    plot_spectra({"ours": extremes, "theirs": extremes}, tmp_path / "two.svg")
    drawn = (tmp_path / "two.svg").read_text()
    assert "ours (n = 64, 5 unresolved)" in drawn
    assert "theirs" in drawn
    assert all(colour in drawn.lower() for colour in ("#0072b2", "#d55e00"))


def test_a_spectrum_without_a_number_is_drawn_all_the_same(tmp_path):
    nothing = torch.full((3,), torch.nan)
    plot_spectra({"x": Extremes(torch.ones(3), nothing, nothing)}, tmp_path / "x.svg")
    assert "<!-- unresolved -->" in (tmp_path / "x.svg").read_text()


def test_pictures_that_cannot_be_made_are_refused(tmp_path):
    with pytest.raises(UsageError, match="png, pdf, svg"):
        plot_latents(gaussian(5, 2), tmp_path / "x.docx")
    with pytest.raises(UsageError, match="writable"):
        plot_latents(gaussian(5, 2), tmp_path / "no" / "x.png")
    with pytest.raises(BadInput, match="got 0"):
        plot_spectra({}, tmp_path / "x.png")
