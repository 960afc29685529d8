import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "packages/tarflow-prior/examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def density():
    return example("density_2d").main(steps=100)


@pytest.fixture(scope="module")
def runs():
    return example("vae_prior").main(steps=30)


def test_density_2d_integrates_to_one(density):
    assert density.integral == pytest.approx(1, abs=1e-2)


def test_density_2d_beats_a_gaussian_of_the_same_moments(density):
    assert density.flow.mean() > density.gaussian.mean() + 0.3


def test_density_2d_does_not_beat_the_truth(density):
    gap = density.truth - density.flow
    assert gap.mean() > 4 * gap.std() / len(gap) ** 0.5


def test_vae_prior_is_the_gaussian_prior_before_training(runs):
    (gaussian, *_), (flow, *_) = runs
    torch.testing.assert_close(flow, gaussian, atol=1e-2, rtol=0)


def test_vae_prior_improves_the_elbo(runs):
    for before, after, _ in runs:
        assert before.isfinite().all()
        assert after.isfinite().all()
        assert after.mean() > before.mean() + 1000


def test_vae_prior_trains_the_flow_jointly(runs):
    (_, gaussian, _), (_, flow, _) = runs
    assert not torch.equal(flow, gaussian)


def test_vae_prior_generates_images(runs):
    for *_, images in runs:
        assert images.shape == (64, 256)
        assert ((images >= 0) & (images <= 1)).all()


@pytest.mark.parametrize("name", ["density_2d", "vae_prior"])
def test_missing_matplotlib_is_said_before_training(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--out", "s.png"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("it trains"))
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert "Expected the package matplotlib for --out; got none. " in capsys.readouterr().err
