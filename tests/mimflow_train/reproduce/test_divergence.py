"""A seed that diverges or overflows is told, and neither hides nor ends the others."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest
import torch

from genmetrics import NumericalFailure
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers
from mimflow_train.errors import DivergedError, WorkerError
from mimflow_train.evaluation.sampling import generate
from mimflow_train.reproduce import figures, rows, scoring, tables
from mimflow_train.reproduce.design import Claim, Experiment, Variant
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.measure import measure
from mimflow_train.reproduce.outcome import verdict
from mimflow_train.reproduce.tables import score_rows
from mimflow_train.reproduce.trained import Trained, trained
from tarflow_prior import Guidance, NonFiniteError


def diverging_at(seed, run):
    def train_row(*arguments):
        if arguments[-1] == seed:
            raise DivergedError("", 0)
        return run

    return train_row


def test_the_other_seeds_keep_their_numbers(session, monkeypatch):
    monkeypatch.setattr(rows, "train_row", diverging_at(0, Trained(None, session.base, "")))
    experiment = Experiment(title="", measure="scores", variants=(Variant(label="a"),))
    row = rows.measure_row(session, experiment, experiment.variants[0], lambda _: {"gfid": 2.0})
    assert row.diverged == (0,)
    assert row.numbers("gfid") == [2.0]
    assert len(row.ours["gfid"]) == 2


OVERFLOWS = [NonFiniteError("Expected finite samples.", torch.zeros(1), [0]), NumericalFailure("")]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("error", OVERFLOWS, ids=lambda error: type(error).__name__)
def test_samples_that_overflow_lose_the_scores_of_their_seed_alone(error, session, monkeypatch):
    def draw(model, label, *rest, guidance):
        if guidance:
            raise error
        return generate(model, label, *rest, guidance=guidance)

    monkeypatch.setattr(scoring, "generate", draw)
    monkeypatch.setattr(scoring, "_autoencoder", lambda *_: {})
    monkeypatch.setattr(tables, "draw_rows", lambda *_: None)
    variants = (Variant(label="plain"), Variant(label="scale 4.0", guidance=Guidance(4.0)))
    claims = (Claim("guidance helps", "gfid", "scale 4.0", "plain"),)
    experiment = Experiment(title="", measure="scores", variants=variants, claims=claims)
    outcome = score_rows(dataclasses.replace(session, seeds=(0,)), "x", experiment)
    plain, guided = outcome.rows
    assert (len(plain.numbers("gfid")), plain.lost, len(plain.samples)) == (1, "", 1)
    assert (guided.ours, guided.diverged, guided.samples) == ({}, (), ())
    assert guided.lost == "overflowed at seed 0"
    assert guided.runs == plain.runs
    assert verdict(claims[0], outcome.rows) == "overflowed: `scale 4.0` overflowed at seed 0"


def test_a_seed_that_overflows_is_told_and_the_others_kept(session, monkeypatch, capsys):
    def measure_run(run):
        if run.config.seed == 0:
            raise OVERFLOWS[0]
        return {"gfid": 2.0}

    def train_row(*rest):
        return Trained(None, dataclasses.replace(session.base, seed=rest[-1]), "")

    monkeypatch.setattr(rows, "train_row", train_row)
    experiment = Experiment(title="", measure="scores", variants=(Variant(label="a"),))
    row = rows.measure_row(session, experiment, experiment.variants[0], measure_run)
    assert (row.overflowed, row.diverged, row.numbers("gfid")) == ((0,), (), [2.0])
    assert "a, seed 0: Expected finite samples." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fig4", "fig5", "fig6"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["the only seed", "one of two"])
def test_figures_survive_a_divergence(name, seeds, session, run, monkeypatch):
    for each in ("plot_latents", "plot_spectra", "draw_depths"):
        monkeypatch.setattr(figures, each, lambda *_, **__: None)
    monkeypatch.setattr(rows, "train_row", diverging_at(0, run))
    session = dataclasses.replace(session, seeds=seeds, quick=True)
    outcome = measure(session, name, EXPERIMENTS[name])
    assert {row.diverged for row in outcome.rows} == {(0,)}
    claims = [verdict(claim, outcome.rows) for claim in EXPERIMENTS[name].claims]
    assert all("diverged at seed 0" in found for found in claims)
    assert all(("one seed" in found) == (len(seeds) == 2) for found in claims)
    assert bool(outcome.pictures) == (len(seeds) == 2)


@pytest.mark.parametrize(("code", "error"), [(5, DivergedError), (3, WorkerError)])
def test_a_divergence_under_ray_is_one(code, error, session, monkeypatch):
    def fail(*_, **__):
        raise WorkerError("Expected finite losses; got none.", code)

    monkeypatch.setitem(
        sys.modules, "mimflow_train.engine.launch_ray", SimpleNamespace(run_ray=fail)
    )
    with pytest.raises(error, match="finite losses"):
        trained(
            dataclasses.replace(session, launch=Launch("ray", "cpu", Workers(2, 2))),
            session.base,
        )
