"""What is left to train and to fetch is known before it is begun."""

import dataclasses
import importlib.util

import pytest

from genmetrics import WeightsUnavailable
from mimflow_train.config.overrides import override
from mimflow_train.errors import ConfigError
from mimflow_train.recipes import IMAGENET_CLASSES, paper, tiny
from mimflow_train.reproduce import needs, trained
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.estimate import left_text, to_text
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.needs import missing_networks
from mimflow_train.reproduce.quick import QUICK_SETTINGS
from mimflow_train.reproduce.variants import planned_runs
from tarflow_prior import Guidance

ROWS = (Variant(label="a"), Variant(label="b", settings=("mask.low=0.3",)))
EXPERIMENT = Experiment(title="Table 0", measure="scores", variants=ROWS)


def test_what_is_done_is_not_left(session):
    assert left_text(session, EXPERIMENT).startswith("4 run(s) left to train, 12 steps")
    trained.trained(session, override(session.base, ["seed=1"]))
    assert left_text(session, EXPERIMENT).startswith("3 run(s) left to train, 9 steps")


def test_a_longer_run_lacks_only_its_end(session):
    config = override(session.base, ["decoder_phase.steps=2"])
    longer = dataclasses.replace(session, base=config, seeds=(0,))
    trained.trained(longer, config)
    rows = (Variant(label="a", decoder_phase=True),)
    experiment = dataclasses.replace(EXPERIMENT, variants=rows)
    assert [each.steps for each in needs.unfinished(longer, experiment)] == [2]


def test_all_is_said_to_be_trained_when_it_is(session):
    experiment = dataclasses.replace(EXPERIMENT, variants=ROWS[:1])
    one = dataclasses.replace(session, seeds=(0,))
    trained.trained(one, one.base)
    assert left_text(one, experiment).startswith("All is trained; with 1 row(s) to judge")


@pytest.mark.parametrize("quick", [False, True])
def test_the_sum_of_one_is_that_one(session, quick):
    lines = to_text(dataclasses.replace(session, quick=quick), {"x": EXPERIMENT}).splitlines()
    one, together = (next(each for each in lines if each.startswith(n)) for n in ("x", "together"))
    assert one[15:51] == together[15:51]


def test_rows_that_are_scored_alike_are_judged_once(session):
    base = override(session.base, ["guidance=3.0"])
    session = dataclasses.replace(session, base=base, seeds=(0,))
    rows = [Variant(label=str(each), guidance=each) for each in ("recipe", Guidance(3.0))]
    twice = dataclasses.replace(EXPERIMENT, variants=tuple(rows))
    assert "with 1 row(s) to judge" in left_text(session, twice)


def test_the_smoke_test_is_said_to_take_what_it_took(session):
    base = override(tiny(), QUICK_SETTINGS)
    quick = dataclasses.replace(session, base=base, seeds=(0,), quick=True)
    (together,) = (each for each in to_text(quick, EXPERIMENTS).splitlines() if "together" in each)
    assert "2 min 05 s" in together


def test_a_fixed_autoencoder_that_is_looked_at_needs_its_own_weights_alone(large, tmp_path):
    session = dataclasses.replace(large, seeds=(0,), out=tmp_path)
    experiment = EXPERIMENTS["fig4"].only(["convolutional VAE"])
    runs = planned_runs(session.base, experiment)
    assert missing_networks(session, experiment, runs) == ["SD-VAE"]


@pytest.fixture
def large(session):
    """The same at the paper's scale, its scores by the small session's feature network."""
    large = dataclasses.replace(session, base=paper("L", IMAGENET_CLASSES, "imagenet"))
    vars(large)["extractor"] = session.extractor
    return large


@pytest.fixture
def looked_for(monkeypatch):
    """Names of the networks whose weights are asked for."""
    names = []
    monkeypatch.setattr(needs, "find_weights", lambda file: names.append(file.network))
    return names


def test_networks_of_every_row_are_looked_for(large, looked_for):
    needs.require_networks(large, [EXPERIMENTS["table2"], EXPERIMENTS["table5-target"]])
    assert looked_for == ["VGG16", "ConvNeXt-S", "DINOv2 ViT-B/14", "CLIP ViT-B/16"]


def test_a_run_that_lacks_its_decoder_phase_alone_needs_no_teacher(large, looked_for):
    one = dataclasses.replace(large, seeds=(0,))
    rows = (Variant(label="a", decoder_phase=True),)
    experiment = dataclasses.replace(EXPERIMENT, variants=rows)
    end = f"checkpoints/step_{one.base.steps:08d}"
    (one.run_dir(one.base) / end).mkdir(parents=True)
    needs.require_networks(one, [experiment])
    assert looked_for == ["VGG16", "ConvNeXt-S"]


def test_rows_of_sd_vae_need_its_package_and_its_weights(session, large, looked_for, monkeypatch):
    needs.require_networks(large, [EXPERIMENTS["table1"]])
    assert "SD-VAE" in looked_for
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name in ("table1", "table2", "fig5"):
        with pytest.raises(ConfigError, match="package diffusers"):
            needs.require_networks(session, [EXPERIMENTS[name]])
    needs.require_networks(session, [EXPERIMENTS["table9"]])


def test_what_is_trained_already_needs_no_teacher(session, monkeypatch):
    one = dataclasses.replace(session, seeds=(0,))
    trained.trained(one, one.base)
    lpips = override(one.base, ["loss.perceptual=1.0", "loss.perceptual_network=lpips"])
    monkeypatch.setattr(needs, "find_weights", lambda file: pytest.fail(file.network))
    experiment = dataclasses.replace(EXPERIMENT, variants=ROWS[:1])
    one.run_dir(one.base).rename(one.run_dir(lpips))
    needs.require_networks(dataclasses.replace(one, base=lpips), [experiment])


def test_the_list_says_that_the_scores_network_is_missing(session, monkeypatch):
    def nowhere(*, download):
        assert not download
        raise WeightsUnavailable

    inception = dataclasses.replace(session, extractor_name="inception")
    monkeypatch.setattr(needs.inception, "find_inception_weights", nowhere)
    assert "needs weights of inception (scores)" in to_text(inception, {"x": EXPERIMENT})
    monkeypatch.setattr(needs.inception, "find_inception_weights", lambda **_: None)
    assert "inception" not in to_text(inception, {"x": EXPERIMENT})
