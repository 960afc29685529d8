"""What ``--dry-run`` says of time and disk; its table of work is tested with the command."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from mimflow_train.cli import dry_run
from mimflow_train.cli.disk import kept_on_disk
from mimflow_train.config import DecoderPhaseConfig, DiscriminatorConfig
from mimflow_train.device.costs import PartCost, RunCost
from mimflow_train.errors import ConfigError
from mimflow_train.plan import Plan, checkpoint_interval
from mimflow_train.recipes import tiny

COST = RunCost(
    trained=[PartCost("flow", 7 * 2**26, 5.0)],
    discriminator=None,
    frozen=[],
    static_bytes=0,
    activation_bytes=2**30,
)


@pytest.fixture(autouse=True)
def _cost(monkeypatch):
    monkeypatch.setattr(dry_run, "run_cost", lambda *_: COST)


@pytest.fixture
def paper_s(config, monkeypatch):
    """A run of the paper's length, weights and work an image, whatever its networks."""
    monkeypatch.setattr(RunCost, "training_flops", 1.062e12)
    cost = dataclasses.replace(COST, trained=[PartCost("all", 649_750_000, 5.0)])
    monkeypatch.setattr(dry_run, "run_cost", lambda *_: cost)
    return dataclasses.replace(config, scale="L", global_batch=256, steps=450_360)


def cost_table(config, workers, phase, *, hardware=None, out=Path(), **plan):
    """Return the dry run's text, with the command's defaults."""
    until = config.steps if phase == "joint" else config.all_steps
    every = {"checkpoint_every": checkpoint_interval(config.scale)}
    kept = Plan(until=until, **(every | plan))
    return dry_run.cost_table(config, workers, phase, plan=kept, out=out, hardware=hardware)


def line(text, part):
    return next(each for each in text.splitlines() if part in each)


def test_paper_s_machine_takes_the_paper_s_hours(paper_s):
    text = cost_table(paper_s, 8, "joint", hardware="A100 80GB")
    said = line(
        text, "8 x A100 80GB at 34% of 312 TFLOP/s (what the paper's run comes to, assumed)"
    )
    assert "3.12 steps/s, 799 images/s, 40.1 h" in said  # 3.11, 796 and 40.2 in the paper


def test_target_is_told_beside_the_assumption(paper_s):
    text = cost_table(paper_s, 8, "joint", hardware="H200")
    assert "13.10 steps/s, 3353 images/s, 9.6 h" in line(text, "8 x H200 at 45% of 989")


@pytest.mark.parametrize(
    ("settings", "measured"),
    [
        ({}, 117.2),
        ({"compile": True}, 140.4),
        ({"compile": True, "cuda_graph": True}, 197.5),
        ({"compile": True, "recompute": True}, 80.8),
    ],
)
def test_what_was_measured_is_told_first(paper_s, settings, measured):
    config = dataclasses.replace(paper_s, global_batch=32, **settings)
    said = line(cost_table(config, 1, "joint", hardware="H100"), "1 x H100 ")
    why = "as 32 images of L were measured on one H100, extrapolated by 989 TFLOP/s and 3.35 TB/s"
    assert f"1 x H100 {why}  " in said
    assert images_per_second(said) == pytest.approx(measured, rel=0.011)


def test_a_step_of_the_measured_batch_is_what_was_measured_in_its_parts(paper_s):
    config = dataclasses.replace(paper_s, global_batch=32, compile=True, cuda_graph=True)
    text = cost_table(config, 1, "joint", hardware="H100")
    assert "148 + 14 + 0 ms a step: 6.18 steps/s" in line(text, "as 32 images")


@pytest.mark.parametrize(
    ("graph", "milliseconds"), [(False, 26.8 + 13.8 + (25.6 - 17.9)), (True, 18.5 + 13.8 + 25.6)]
)
def test_what_does_not_shrink_with_a_worker_s_images_is_counted(paper_s, graph, milliseconds):
    config = dataclasses.replace(paper_s, compile=True, cuda_graph=graph)
    speeds = {}
    for workers in (1, 2, 8, 64):
        said = line(cost_table(config, workers, "joint", hardware="H100"), "H100 as")
        speeds[workers] = images_per_second(said) / 256
        assert ("at most" in said) == (workers > 8)
    assert speeds[2] < 2 * speeds[1]
    assert speeds[8] < 4 * speeds[2]
    assert 1000 / speeds[64] == pytest.approx(milliseconds, rel=0.01)


def test_launches_of_another_scale_are_not_known(paper_s):
    config = dataclasses.replace(paper_s, scale="S")
    assert "ms a step: at most " in line(cost_table(config, 1, "joint", hardware="H100"), "H100 as")


def test_the_estimate_says_what_was_not_measured(paper_s):
    text = cost_table(paper_s, 64, "joint", hardware="A100")
    assert "of steps of 32 images of L on a card. A step here is the work of 4 image(s)" in text
    assert "no step has been timed on several cards" in text


def images_per_second(said):
    return float(said.partition(" images/s")[0].split()[-1])


def test_what_was_not_measured_is_not_told_so(paper_s):
    config = dataclasses.replace(paper_s, compile=True, recompute=True, cuda_graph=True)
    text = cost_table(config, 1, "joint", hardware="H100")
    assert "at 34% of 989" in line(text, "1 x H100 at")


def test_what_is_computed_again_takes_time(paper_s, monkeypatch):
    cost = dataclasses.replace(COST, trained=[PartCost("flow", 0, 132.75)])
    monkeypatch.setattr(dry_run, "run_cost", lambda *_: cost)
    once, twice = (
        cost_table(dataclasses.replace(paper_s, recompute=each), 1, "joint", hardware="H100")
        for each in (False, True)
    )
    assert "measured" not in twice
    hours = [float(line(text, "34%").split()[-5]) for text in (once, twice)]
    assert hours[1] / hours[0] == pytest.approx(1.25, rel=1e-3)


def test_unknown_hardware_is_refused(config):
    with pytest.raises(ConfigError, match="got abacus"):
        cost_table(config, 1, "joint", hardware="abacus")


def test_machine_without_a_gpu_says_how_long_it_would_take(paper_s, monkeypatch):
    monkeypatch.setattr(dry_run, "detect", lambda: None)
    monkeypatch.setattr(dry_run, "choose_device", lambda _: "cpu")
    monkeypatch.setattr(dry_run, "matmul_rate", lambda: 0.886e12)
    monkeypatch.setattr(dry_run, "count_cores", lambda: 2)
    said = line(cost_table(paper_s, 1, "joint"), "this machine's CPU")
    assert "about 15.2 years of joint training: an estimate, by the 0.89 TFLOP/s" in said
    assert "and 0.36 for all else on 2 core(s)" in said


SAVED = 0.08  # seconds a step, measured at 0.85e12; the other steps are of before


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(0.85e12, 0.36), (1.39e12, 0.52 - SAVED), (0.402e12, 0.70 - SAVED), (0.1e12, 1.3 - SAVED)],
)
def test_time_on_two_cores_is_near_what_was_measured(rate, seconds, monkeypatch):
    monkeypatch.setattr(dry_run, "detect", lambda: None)
    monkeypatch.setattr(dry_run, "choose_device", lambda _: "cpu")
    monkeypatch.setattr(dry_run, "matmul_rate", lambda: rate)
    monkeypatch.setattr(dry_run, "count_cores", lambda: 2)
    monkeypatch.setattr(RunCost, "training_flops", 1.61e9)  # of an image, at scale tiny
    config = dataclasses.replace(tiny(), steps=100)
    said = line(cost_table(config, 1, "joint"), "this machine's CPU")
    minutes, _, rest = said.partition("about ")[2].partition(" of joint")[0].partition(" min ")
    estimate = int(minutes) * 60 + float(rest.split()[0]) if rest else float(minutes.split()[0])
    assert estimate / (100 * seconds) == pytest.approx(1, abs=0.25)


def test_gpu_that_is_not_in_the_table_is_not_guessed(config, monkeypatch):
    monkeypatch.setattr(dry_run, "detect", lambda: None)
    monkeypatch.setattr(dry_run, "choose_device", lambda _: "cuda")
    assert "nothing is known of this machine's GPU" in cost_table(config, 1, "joint")


def test_batch_that_does_not_fit_is_told_with_one_that_does(config):
    config = dataclasses.replace(config, global_batch=120)
    text = cost_table(config, 2, "joint", hardware="L40S")
    assert "does not fit into the 48 GiB of L40S; --set micro_batch=30 does" in text
    assert "does not fit" not in cost_table(config, 3, "joint", hardware="L40S")


def test_disk_holds_the_pictures_of_all_saves(config):
    encoder = dataclasses.replace(config.model.encoder, image_size=256, patch_size=64)
    decoder = dataclasses.replace(config.model.decoder, image_size=256, patch_size=64)
    model = dataclasses.replace(config.model, encoder=encoder, decoder=decoder)
    config = dataclasses.replace(config, scale="S", steps=450_000, model=model)
    said = "and 180 picture(s) of samples, one every 2,500 steps, 0.6 GiB together"
    text = cost_table(config, 1, "joint", hardware="L4")
    assert said in line(text, "  disk  37.3 GiB: 3 checkpoints")
    text = cost_table(config, 1, "joint", hardware="L4", checkpoint_every=100_000)
    assert "and 5 picture(s) of samples, one every 100,000 steps" in text


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("joint", "26.3 GiB: 3 checkpoints of 7.00 GiB (the newest two, one being written)"),
        (
            "all",
            "35.0 GiB: 4 checkpoints of 7.00 GiB (the newest two, one being written, the joint",
        ),
    ],
)
def test_disk_holds_every_checkpoint_and_milestone_that_is_kept(config, phase, said):
    phases = DecoderPhaseConfig(steps=7, discriminator=DiscriminatorConfig(depth=2))
    config = dataclasses.replace(config, steps=15, decoder_phase=phases)
    text = cost_table(config, 1, phase, hardware="L4", checkpoint_every=5, milestone_every=5)
    assert said in line(text, "  disk  ")


def test_disk_counts_milestones_of_the_trained_phases_alone(config):
    phases = DecoderPhaseConfig(steps=7, discriminator=DiscriminatorConfig(depth=2))
    config = dataclasses.replace(config, steps=15, decoder_phase=phases)
    for phase, count in (("joint", 3), ("all", 4)):
        text = cost_table(config, 1, phase, hardware="L4", checkpoint_every=5, milestone_every=5)
        assert f"weights of {count} milestone(s), 1.75 GiB each" in text


@pytest.mark.parametrize("checkpoint_every", [1, 4, 7, 15, 100])
@pytest.mark.parametrize("milestone_every", [1, 3, 5, 16, 100])
@pytest.mark.parametrize("until", [15, 22])
def test_disk_counts_what_the_plan_keeps(config, checkpoint_every, milestone_every, until):
    config = dataclasses.replace(config, steps=15)
    plan = Plan(until=until, checkpoint_every=checkpoint_every, milestone_every=milestone_every)
    saved, kept = 0, []
    for step in range(1, until + 1):
        if step % checkpoint_every == 0 or step in (15, until):
            saved += 1
            kept += [step] if plan.is_milestone(step, kept) else []
    counted = kept_on_disk(config, plan, 1)
    assert (counted.pictures, counted.milestones) == (saved, len(kept))


def test_disk_counts_no_milestone_between_checkpoints(config):
    plan = Plan(until=460_000, checkpoint_every=2_500, milestone_every=1_000)
    assert kept_on_disk(dataclasses.replace(config, steps=450_000), plan, 1).milestones == 184


@pytest.mark.parametrize(
    ("free", "said"),
    [(22, "; 22.0 GiB are free for run"), (20, "; 20.0 GiB are free for run, too little")],
)
def test_disk_that_is_free_is_told_beside_what_is_needed(config, monkeypatch, free, said):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (2**40, 0, free * 2**30))
    text = cost_table(config, 1, "joint", hardware="L4", out=Path("run"))
    assert line(text, "  disk  21.0 GiB").partition("; ")[2].startswith(said[2:])
    assert ("too little" in text) == (free < 21)


def test_a_drive_that_does_not_know_what_is_free_is_not_called_full(config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (0, 0, 0))
    assert "free" not in line(cost_table(config, 1, "joint", hardware="L4"), "  disk  ")


@pytest.mark.parametrize(("phase", "count"), [("joint", 0), ("all", 1)])
def test_the_time_says_that_it_leaves_the_decoder_phase_out(config, phase, count):
    phases = DecoderPhaseConfig(steps=7, discriminator=DiscriminatorConfig(depth=2))
    config = dataclasses.replace(config, steps=15, decoder_phase=phases)
    text = cost_table(config, 1, phase, hardware="L4")
    assert text.count("the 7 steps of the decoder phase are in no time here") == count
