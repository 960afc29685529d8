import sys
import types

import pytest

from mimflow_train.errors import ConfigError
from mimflow_train.telemetry.sinks import WandbSink, require_wandb


class Run:
    """What ``wandb.init`` returns, as far as it is used."""

    offline, url, dir = False, "https://wandb.example/run", "run/wandb/offline-run-1/files"

    def __init__(self, options):
        self.options, self.logged, self.finished, self.broken = options, [], False, False

    def define_metric(self, name, step_metric):
        self.axis = {name: step_metric}

    def log(self, values):
        if self.broken:
            raise OSError("no route to host")
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def runs(monkeypatch):
    """A package ``wandb`` that remembers what it is asked."""
    runs = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: runs.append(Run(options)) or runs[-1]
    fake.Settings = dict
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return runs


def test_reports_are_sent_with_their_steps(runs, tmp_path):
    sink = WandbSink(tmp_path, {"scale": "tiny"}, lambda _: None)
    for step, loss in ((10, 2.5), (20, 9.0), (10, 2.25)):  # as after a roll-back
        sink.write(step, {"loss": loss})
    sink.close()
    assert runs[0].axis == {"*": "step"}  # or W&B ignores a step that is no later than the last
    assert runs[0].logged == [
        {"loss": 2.5, "step": 10},
        {"loss": 9.0, "step": 20},
        {"loss": 2.25, "step": 10},
    ]
    assert runs[0].finished
    assert runs[0].options["config"] == {"scale": "tiny"}


def test_continued_run_keeps_its_name_there(runs, tmp_path):
    for folder in ("one", "one", "two"):
        (tmp_path / folder).mkdir(exist_ok=True)
        WandbSink(tmp_path / folder, {}, lambda _: None)
    first, again, other = (run.options["id"] for run in runs)
    assert first == again != other


@pytest.mark.parametrize(("named", "project"), [(None, "mimflow"), ("", "mimflow"), ("a", "a")])
def test_the_project_is_the_environment_s_if_it_names_one(
    runs, tmp_path, monkeypatch, named, project
):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if named is not None:
        monkeypatch.setenv("WANDB_PROJECT", named)
    WandbSink(tmp_path, {}, lambda _: None)
    assert runs[0].options["project"] == project


def test_address_is_said(runs, tmp_path):
    messages = []
    WandbSink(tmp_path, {}, messages.append)
    assert messages == ["W&B: https://wandb.example/run"]


def test_what_is_written_offline_can_be_sent_later(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "offline", True)
    messages = []
    WandbSink(tmp_path, {}, messages.append)
    assert messages == ["W&B is offline; send it with wandb sync run/wandb/offline-run-1"]


def test_failure_while_a_run_goes_on_is_told_once_and_ends_nothing(runs, tmp_path):
    messages = []
    sink = WandbSink(tmp_path, {}, messages.append)
    runs[0].broken = True
    for step in (10, 20, 30):
        sink.write(step, {"loss": 1.0})
    sink.close()
    assert messages[1:] == ["Warning: W&B failed (no route to host); the run goes on without it."]


def test_service_that_cannot_be_reached_at_the_start_ends_nothing(runs, tmp_path):
    def refuse(**_):
        raise RuntimeError("no key")

    sys.modules["wandb"].init = refuse
    messages = []
    sink = WandbSink(tmp_path, {}, messages.append)
    sink.write(10, {"loss": 1.0})
    sink.close()
    assert messages == ["Warning: W&B failed (no key); the run goes on without it."]


def test_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"Expected the package wandb with --log wandb") as caught:
        require_wandb()
    assert caught.value.exit_code == 2
