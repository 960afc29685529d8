"""What a driver shows of workers that are other processes."""

import contextlib
import json
from pathlib import Path

import pytest

from mimflow_train.plan import Plan
from mimflow_train.telemetry.console import Progress
from mimflow_train.telemetry.run_log import Readout, RunLog


@pytest.fixture
def report(tmp_path):
    """Return a function that adds a report to the run's record; later ones have later times."""
    times = map(float, range(1, 100))

    def function(step):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": next(times), "loss": 1.0}) + "\n")

    return function


def test_a_driver_shows_what_workers_say_and_where_they_are(tmp_path, report, capsys):
    words = tmp_path / "ray"
    words.mkdir()
    readout = Readout(tmp_path, words, until=20)
    readout.show()
    assert capsys.readouterr().err == ""
    (words / "0.words").write_text("Cannot decode a.png.\n")
    for step in (10, 20):
        report(step)
    readout.show()
    assert capsys.readouterr().err == "Cannot decode a.png.\nstep 20/20  loss 1\n"
    readout.close()


def test_what_an_earlier_launch_reported_is_not_shown_again(tmp_path, report, capsys):
    report(10)
    readout = Readout(tmp_path, tmp_path, until=20)
    assert not readout.show()
    report(20)
    assert readout.show()
    assert capsys.readouterr().err == "step 20/20  loss 1\n"
    readout.close()


def test_steps_that_a_restart_repeats_are_shown_again(tmp_path, report, capsys, monkeypatch):
    begun = []
    monkeypatch.setattr(
        "mimflow_train.telemetry.run_log.Progress", lambda *at: begun.append(at) or Progress(*at)
    )
    readout = Readout(tmp_path, tmp_path, until=20)
    for step in (10, 20):
        report(step)
    readout.show()
    (tmp_path / "metrics.jsonl").write_text("")  # from a checkpoint on
    readout.show()
    for step in (10, 20):
        report(step)
    readout.show()
    assert capsys.readouterr().err == "step 20/20  loss 1\n" * 2
    assert begun == [(10, 20), (10, 20)], "a bar goes back, and time left is of the new start"
    readout.close()


def test_a_list_that_cannot_be_read_for_a_while_ends_nothing(tmp_path, config, monkeypatch, capsys):
    plan = Plan(until=20, checkpoint_every=10)
    with contextlib.closing(RunLog(config, tmp_path, plan, shown=False)) as run_log:
        run_log.begin(0)

        def away(_):
            raise OSError(116, "Stale file handle")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "is_file", away)
            run_log.write(10, {"loss": 1.0})
        run_log.write(20, {"loss": 1.0})
    assert "the values of step 10 cannot be recorded" in capsys.readouterr().err
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 20


def test_a_record_that_cannot_be_begun_is_begun_later(tmp_path, config, monkeypatch, capsys):
    """As at a roll-back on a full disk, which drops what comes again."""

    def full(*_):
        raise OSError("No space left on device")

    plan = Plan(until=30, checkpoint_every=10)
    with contextlib.closing(RunLog(config, tmp_path, plan, shown=False)) as run_log:
        run_log.begin(0)
        for step in (10, 20):
            run_log.write(step, {"loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr("mimflow_train.telemetry.events.written_whole", full)
            run_log.begin(10)
            run_log.write(20, {"loss": 2.0})
        run_log.write(30, {"loss": 3.0})
    assert capsys.readouterr().err.count("cannot be recorded") == 1
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (30, 3.0)]
