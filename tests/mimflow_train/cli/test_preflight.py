"""What is refused before a worker starts, when the workers are on other machines."""

import dataclasses
import socket

import pytest

from mimflow_train.cli import preflight
from mimflow_train.cli.preflight import (
    choose_launch,
    cluster_device,
    idle_gpus,
    require_answer,
    require_equal_shares,
)
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers, handed_on, usable_workers
from mimflow_train.errors import ConfigError
from mimflow_train.recipes import tiny


def test_a_number_of_workers_is_not_a_range():
    assert Workers.parse("3") == (3, 3)
    assert not Workers.parse("3").is_range


def test_a_range_of_workers_keeps_both_ends():
    assert Workers.parse("2-16") == (2, 16)
    assert str(Workers.parse("2-16")) == "2-16"


@pytest.mark.parametrize("text", ["", "two", "-2", "2-", "2-4-8", "1.5"])
def test_what_is_no_number_of_workers_is_refused(text):
    with pytest.raises(ConfigError, match="Expected --workers N or MIN-MAX"):
        Workers.parse(text)


@pytest.mark.parametrize("text", ["8-4", "0-2"])
def test_an_impossible_range_of_workers_is_refused(text):
    with pytest.raises(ConfigError, match=f"Expected --workers .*; got {text}"):
        Workers.parse(text)


@pytest.mark.parametrize(("text", "refused"), [("3-6", False), ("4-6", True), ("3-7", True)])
def test_both_ends_of_a_range_must_divide_the_batch(config, text, refused):
    workers, config = Workers.parse(text), dataclasses.replace(config, global_batch=18)
    if not refused:
        require_equal_shares(config, workers)
        return
    with pytest.raises(ConfigError, match=f"global batch of 18; got {text}. Choose divisors"):
        require_equal_shares(config, workers)


def test_usable_workers_share_the_batch_in_whole_micro_batches():
    for started in range(1, 20):
        for micro_batch in (0, 1, 2, 3):
            count = usable_workers(started, 36, micro_batch)
            assert 1 <= count <= started
            assert 36 // count * count == 36
            assert 36 // count % (micro_batch or 1) == 0


def test_no_more_workers_could_be_used():
    assert [usable_workers(n, 12, 0) for n in range(1, 13)] == [1, 2, 3, 4, 4, 6, 6, 6, 6, 6, 6, 12]
    assert usable_workers(6, 12, 4) == 3


def test_a_micro_batch_that_fits_no_share_leaves_no_worker():
    assert usable_workers(4, 12, 5) == 0


def test_a_cluster_with_too_few_devices_is_refused():
    with pytest.raises(ConfigError, match=r"at most 4 workers .* 4 GPU\(s\); got 5"):
        cluster_device({"CPU": 64.0, "GPU": 4.0}, Workers(5, 5), "auto")
    with pytest.raises(ConfigError, match=r"at most 0 workers .* 0 GPU\(s\); got 1"):
        cluster_device({"CPU": 64.0}, Workers(1, 1), "cuda")


def test_a_range_needs_its_fewest_workers_only():
    assert cluster_device({"CPU": 4.0}, Workers(4, 8), "auto") == "cpu"
    with pytest.raises(ConfigError, match="got 5-10"):
        cluster_device({"CPU": 4.0}, Workers(5, 10), "auto")


def test_gpus_of_a_cluster_are_used_unless_the_cpu_is_asked_for():
    both = {"CPU": 8.0, "GPU": 2.0}
    assert cluster_device(both, Workers(2, 2), "auto") == "cuda"
    assert cluster_device(both, Workers(8, 8), "cpu") == "cpu"


@pytest.mark.parametrize("engine", ["local", "torchrun"])
def test_a_cluster_is_refused_with_another_engine(engine):
    with pytest.raises(ConfigError, match=f"without --engine {engine}"):
        choose_launch(engine, Workers(1, 1), "cpu", address="auto")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_of_torchrun_do_not_each_train_alone(engine, monkeypatch):
    monkeypatch.setattr(preflight, "torchrun_place", lambda: (1, 2))
    with pytest.raises(ConfigError, match=f"torchrun's 2 workers, .*; got {engine}"):
        choose_launch(engine, Workers(1, 1), "cpu", address=None)


def test_an_address_where_nothing_listens_is_refused():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"running Ray cluster, or auto; got {address}"):
            require_answer(address)


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ConfigError, match="HOST:PORT of a running Ray cluster"):
        require_answer("somewhere")


def test_torchrun_s_processes_have_to_share_the_batch_whatever_workers_says(monkeypatch):
    config = tiny()
    preflight.require_equal_shares(config, Workers(1, 1))
    monkeypatch.setattr(preflight, "torchrun_place", lambda: (0, 3))
    with pytest.raises(ConfigError, match=r"torchrun's processes to divide .* got 3\. Choose"):
        preflight.require_equal_shares(config, Workers(1, 1))


@pytest.mark.parametrize(("local", "refused"), [({}, True), ({"LOCAL_WORLD_SIZE": "2"}, False)])
def test_torchrun_with_more_workers_than_gpus_is_refused(monkeypatch, local, refused):
    place = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "2", "MASTER_ADDR": "", **local}
    for name, value in {**place, "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(preflight, "torchrun_place", lambda: (9, 16))
    monkeypatch.setattr(preflight, "choose_device", lambda kind: "cpu" if kind == "cpu" else "cuda")
    monkeypatch.setattr(preflight, "count_devices", lambda _: 2)
    if refused:
        with pytest.raises(ConfigError, match=r"at most 2 workers .* 2 GPU\(s\); .* started 3"):
            preflight.choose_engine("auto", 1, "auto")
    assert preflight.choose_engine("auto", 1, "cpu" if refused else "auto") == "torchrun"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (8, "7 more GPU(s) are idle; --workers 8 uses them."),
        (7, "6 more GPU(s) are idle; --workers 4 uses 3 of them."),
        (1, ""),
    ],
)
def test_gpus_that_stay_idle_are_told_with_the_workers_that_share_the_batch(
    config, monkeypatch, count, said
):
    monkeypatch.setattr(preflight, "count_devices", {"cuda": count, "cpu": 99}.get)
    assert idle_gpus(config, Launch("local", "cuda", Workers(1, 1))) == said
    assert idle_gpus(config, Launch("local", "cpu", Workers(1, 1))) == ""


@pytest.mark.parametrize("engine", ["torchrun", "ray"])
def test_gpus_of_engines_that_have_them_allotted_are_not_told_idle(config, monkeypatch, engine):
    monkeypatch.setattr(preflight, "count_devices", lambda _: 8)
    assert idle_gpus(config, Launch(engine, "cuda", Workers(4, 4))) == ""


def test_workers_are_handed_settings_and_no_secrets():
    settings = {"MIMFLOW_OFFLINE": "1", "HF_HOME": "/h", "WANDB_PROJECT": "a", "WANDB_ENTITY": "b"}
    secrets = {"HF_TOKEN": "1", "WANDB_API_KEY": "1", "HOME": "/"}
    assert handed_on(settings | secrets) == settings
