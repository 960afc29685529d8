"""A report names the code and the steps of the runs, and those of the command apart."""

import dataclasses
import json

import pytest

from mimflow_train.cli.reproduce import _made
from mimflow_train.config.overrides import override
from mimflow_train.reproduce import scoring, tables
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.outcome import Origin
from mimflow_train.reproduce.report import write_report
from mimflow_train.reproduce.rows import measure_row
from mimflow_train.reproduce.tables import score_rows


def rows_of(session, variant):
    experiment = Experiment(title="", measure="scores", variants=(variant,))
    return measure_row(session, experiment, variant, lambda _: {"gfid": 1.0}).runs


@pytest.mark.usefixtures("run")
def test_a_run_that_was_there_keeps_its_commit(session):
    (first, second) = rows_of(session, Variant(label="a"))
    manifest = session.out / "runs" / first.run / "checkpoints" / "step_00000003" / "manifest.json"
    plain = json.loads(manifest.read_text())
    plain |= {"commit": "older", "versions": {"torch": "1.0"}}
    manifest.write_text(json.dumps(plain))
    again = rows_of(session, Variant(label="a"))
    assert again == (dataclasses.replace(first, commit="older", torch="1.0"), second)
    assert (first.seed, second.seed) == (0, 1)


@pytest.mark.parametrize(
    ("variant", "steps"),
    [
        (Variant(label="a", settings=("steps=2",)), [2]),
        (Variant(label="a", convolutional=True, two_stage=True), [3, 3]),
        (Variant(label="a", decoder_phase=True), [5]),
    ],
    ids=["other steps", "two stages", "decoder phase"],
)
def test_the_steps_are_those_that_ran(variant, steps, session):
    changes = ["loss.feature=0.0", "decoder_phase.steps=2"]
    changes.append("decoder_phase.discriminator.width=16")
    session = dataclasses.replace(session, seeds=(0,), base=override(session.base, changes))
    runs = rows_of(session, variant)
    assert [run.steps for run in runs] == steps
    assert len({run.run for run in runs}) == len(steps)
    assert all(run.commit != "unknown" for run in runs)


def test_the_commits_of_runs_and_of_the_command_are_told_apart(session, monkeypatch):
    monkeypatch.setattr("mimflow_train.cli.reproduce.code_commit", lambda: "now")
    runs = [
        Origin(
            run=f"r{seed}",
            seed=seed,
            steps=steps,
            commit=commit,
            torch="2.0",
            precision="fp32 on cpu",
        )
        for seed, steps, commit in ((0, 250250, "b"), (1, 1000, "a"), (2, 1000, "a"))
    ]
    made = _made(session, "mimflow-reproduce table0", runs)
    assert (made["commit"], made["torch"], made["steps"]) == ("a, b", "2.0", "1000, 250250")
    assert made["report_commit"] == "now"
    alone = _made(session, "mimflow-reproduce table0", [])
    assert (alone["commit"], alone["steps"]) == ("now", "none")


@pytest.mark.usefixtures("run")
def test_a_report_names_the_samples_of_each_row(session, monkeypatch):
    monkeypatch.setattr(scoring, "_reconstructions", lambda *_: {})
    monkeypatch.setattr(scoring, "_encodes_whole", lambda _: False)
    monkeypatch.setattr(tables, "draw_rows", lambda *_: None)
    variants = (Variant(label="a"), Variant(label="b", scales="paper"))
    experiment = Experiment(title="", measure="scores", variants=variants)
    outcome = score_rows(session, "x", experiment)
    first, second = outcome.rows[0].samples
    assert first != second
    assert all((session.out / each).is_file() for each in (first, second))
    made = {"command": "", "quick": False, "report_seconds": 2.5}
    text = write_report(session.out / "x", experiment, outcome, made)
    assert f"Samples of `a`, in ADM's format, from the folder --out: `{first}`, `{second}`." in text
    assert "Samples of `b`" not in text
    assert "report seconds 2.5." in text
    row = json.loads((session.out / "x" / "report.json").read_text())["rows"][0]
    assert row["samples"] == [first, second]
    assert [run["steps"] for run in row["runs"]] == [3, 3]
