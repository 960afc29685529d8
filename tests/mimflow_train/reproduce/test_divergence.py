"""A seed that diverges is told, and neither hides nor ends the others."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest

from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers
from mimflow_train.errors import DivergedError, WorkerError
from mimflow_train.reproduce import rows
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.measure import measure
from mimflow_train.reproduce.outcome import verdict
from mimflow_train.reproduce.trained import Trained, trained


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


@pytest.mark.parametrize("name", ["fig4", "fig5", "fig6"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["the only seed", "one of two"])
def test_figures_survive_a_divergence(name, seeds, session, monkeypatch):
    run = trained(session, session.base)
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
