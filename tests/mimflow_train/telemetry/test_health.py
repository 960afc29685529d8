import math

import pytest
import torch

from mimflow_train.device.costs import training_flops
from mimflow_train.device.hardware import Hardware
from mimflow_train.telemetry import health as module
from mimflow_train.telemetry.health import Health, latent_values

CPU = torch.device("cpu")


class Clock:
    """Stands still unless moved."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def steps(health, clock, number, seconds):
    for _ in range(number):
        clock.now += seconds
        health.after_step(skipped=False)


def test_speed_is_that_of_the_time_since_the_last_report(config, clock):
    health = Health(config, CPU, 1, clock=clock)
    steps(health, clock, 3, 1000.0)
    health.line({})
    steps(health, clock, 5, 0.5)
    assert health.line({})["steps_per_second"] == pytest.approx(2.0)


def test_the_first_step_after_a_start_is_left_out_of_speed_and_wait(config, clock):
    """It starts loaders, compiles, captures."""

    def batches():
        for seconds in (400.0, 1.0, 1.0, 1.0):
            clock.now += seconds
            yield seconds

    health = Health(config, CPU, 1, clock=clock)
    for wait in health.fetched(batches()):
        steps(health, clock, 1, 2.0 * wait)
        with health.apart():
            clock.now += 40.0
    line = health.line({})
    assert line["steps_per_second"] == pytest.approx(1 / 3)
    assert line["data_wait"] == pytest.approx(1 / 3)
    steps(health, clock, 2, 0.5)
    assert health.line({})["steps_per_second"] == pytest.approx(2.0)


def test_a_first_step_alone_has_the_speed_of_its_whole_time(config, clock):
    health = Health(config, CPU, 1, clock=clock)
    steps(health, clock, 1, 800.0)
    clock.now += 200.0
    assert health.line({})["steps_per_second"] == pytest.approx(1e-3)


def test_time_to_save_is_left_out_of_the_speed(config, clock):
    health = Health(config, CPU, 1, clock=clock)
    steps(health, clock, 5, 0.5)
    with health.apart():
        clock.now += 40.0
    steps(health, clock, 5, 0.5)
    assert health.line({})["steps_per_second"] == pytest.approx(2.0)


def test_images_of_all_workers_are_counted(config, clock):
    health = Health(config, CPU, 4, clock=clock)
    steps(health, clock, 5, 0.5)
    assert health.line({})["images_per_second"] == pytest.approx(2.0 * config.global_batch)


def test_time_until_a_batch_comes_is_the_data_wait(config, clock):
    def batches():
        for number in range(3):
            clock.now += 1.0
            yield number

    health, seen = Health(config, CPU, 1, clock=clock), []
    for batch in health.fetched(batches()):
        seen.append(batch)
        steps(health, clock, 1, 3.0)
    assert seen == [0, 1, 2]
    assert health.line({})["data_wait"] == pytest.approx(0.25)


def test_waiting_is_counted_anew_after_a_report(config, clock):
    def batches():
        clock.now += 2.0
        yield 0

    health = Health(config, CPU, 1, clock=clock)
    assert list(health.fetched(batches())) == [0]
    health.line({})
    steps(health, clock, 1, 1.0)
    assert health.line({})["data_wait"] == 0.0


def test_skipped_steps_are_those_since_the_last_report(config, clock):
    health = Health(config, CPU, 1, clock=clock)
    for skipped in (True, False, True):
        health.after_step(skipped=skipped)
    assert health.line({})["skipped_steps"] == 2.0
    health.after_step(skipped=True)
    assert health.line({})["skipped_steps"] == 1.0


def test_values_of_the_report_stay(config, clock):
    line = Health(config, CPU, 1, clock=clock).line({"loss": 3.5, "nll": -0.25})
    assert (line["loss"], line["nll"]) == (3.5, -0.25)


def test_rate_in_bits_counts_every_latent_entry(config, clock):
    line = Health(config, CPU, 1, clock=clock).line({"rate": 0.5 * math.log(2)})
    assert line["rate_bits"] == pytest.approx(0.5 * 4 * 6)


def test_memory_of_a_process_is_at_least_what_it_has_just_used(config, clock):
    used = torch.ones(2**25)
    memory = Health(config, CPU, 1, clock=clock).line({})["process_memory_gib"]
    assert 2**-3 < memory < 2**7
    assert len(used) == 2**25


def test_mfu_is_left_out_where_no_peak_is_known(config, clock):
    assert "mfu" not in Health(config, CPU, 1, clock=clock).line({"nll": 0.0})


@pytest.fixture
def card(monkeypatch):
    """A card of 2 TFLOP/s in place of this machine's."""
    monkeypatch.setattr(module, "detect", lambda _: Hardware("card", 2.0, 8.0, 1.0))


@pytest.mark.usefixtures("card")
def test_mfu_is_the_share_of_every_worker_s_peak(config, clock):
    health = Health(config, CPU, 3, clock=clock)
    steps(health, clock, 5, 0.5)
    work = 2.0 * config.global_batch * training_flops(config)
    assert health.line({"nll": 0.0})["mfu"] == pytest.approx(work / (3 * 2e12))


@pytest.mark.usefixtures("card")
def test_mfu_is_not_given_for_a_phase_whose_work_is_not_counted(config, clock):
    assert "mfu" not in Health(config, CPU, 1, clock=clock).line({"gan": 0.0})


def means(scale):
    """Means of 500 images; entries of five scales in each of three tokens."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(500, 3, 5, generator=draw) * torch.tensor(scale) + 7.0


def test_entries_that_do_not_vary_are_dead_however_large():
    values = latent_values(means([0.0, 0.001, 0.02, 0.04, 1.0]), 0.3)
    assert values["latent_dead"] == pytest.approx(3 / 5)


def test_sizes_of_entries_include_their_means_and_deviations_do_not():
    values = latent_values(means([1.0, 1.0, 2.0, 2.0, 4.0]), 0.3)
    assert values["latent_abs"] == pytest.approx(7.0, rel=0.05)
    assert values["latent_std"] == pytest.approx(2.0, rel=0.05)


def test_bits_are_the_mean_divergence_from_the_best_independent_prior():
    mean, sigma = means([0.1, 0.3, 0.5, 1.0, 2.0]).double(), 0.3
    posterior = torch.distributions.Normal(mean, sigma)
    spread = (mean.var(0, correction=0) + sigma**2).sqrt()
    prior = torch.distributions.Normal(mean.mean(0), spread)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum((1, 2)).mean()
    bits = latent_values(mean, sigma)["latent_bits"]
    assert bits == pytest.approx(divergence.item() / math.log(2), rel=1e-5)


def test_one_image_says_nothing_of_the_spread_over_images():
    assert set(latent_values(torch.ones(1, 3, 5), 0.3)) == {"latent_abs"}
