"""What a step costs is its own, and how costs grow is said."""

import dataclasses
import gc

import pytest
import torch

from mimflow_train.config.overrides import override
from mimflow_train.model import transformer_layers
from mimflow_train.recipes import tiny
from mimflow_train.reproduce import timing
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.measure import measure
from mimflow_train.reproduce.quick import QUICK_SETTINGS
from mimflow_train.state import TrainState


@pytest.fixture
def quick(session, monkeypatch):
    """The networks of the smoke test, feature decoder included."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # before each row; slow among many tests
    return dataclasses.replace(session, base=override(tiny(), QUICK_SETTINGS), quick=True)


def fake_costs(_session, config, _batch):
    tokens = config.model.flow.num_tokens
    costs = {"memory_gb": 2 * tokens, "train_ms": tokens**2, "sample_s": tokens**0.5}
    return {"tokens": (float(tokens),)} | {key: (float(each),) for key, each in costs.items()}


def test_growth_is_the_power_of_the_tokens_beside_the_papers(quick, monkeypatch):
    monkeypatch.setattr(timing, "_flow", fake_costs)
    (note,) = timing.time_tokens(quick, EXPERIMENTS["table10"]).notes
    assert "memory of a step 1.00, train 2.00 (the paper's 1.02), sample 0.50" in note


def test_a_row_that_does_not_fit_is_not_run_and_the_others_are(quick, monkeypatch):
    def limited(session, config, batch):
        if config.model.flow.num_tokens > 16:
            raise torch.OutOfMemoryError
        return fake_costs(session, config, batch)

    monkeypatch.setattr(timing, "_flow", limited)
    outcome = measure(quick, "x", EXPERIMENTS["table10"])
    assert [row.why_not for row in outcome.rows] == ["", "", "does not fit the device's memory"]
    assert "fitted to 2 rows" in outcome.notes[0]
    assert (quick.out / "x" / outcome.pictures[0]).exists()


def test_the_step_trains_every_network(quick):
    state = TrainState(quick.base, quick.device)
    before = {name: each.clone() for name, each in state.model.named_parameters()}
    timing._joint_step(state, 3, quick.device)()
    after = dict(state.model.named_parameters())
    still = {name.split(".")[0] for name in before if torch.equal(before[name], after[name])}
    assert "feature_decoders" in {name.split(".")[0] for name in before}
    assert "feature_decoders" not in still


def test_memory_on_a_cpu_is_of_weights_and_of_what_autograd_keeps(quick):
    weight = torch.nn.Parameter(torch.ones(5))
    held = timing._training(quick, [weight], 16, lambda: (3 * weight).square().sum().backward(), 7)
    assert held[1] == 5 * 16 + 5 * 4


def test_memory_on_a_gpu_is_the_peak_after_the_first_step_without_what_others_hold(
    quick, monkeypatch
):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: events.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1000)
    monkeypatch.setattr(timing, "kept_bytes", None)
    gpu = dataclasses.replace(quick, device=torch.device("cuda"))
    _, held = timing._training(gpu, [torch.ones(3)], 16, lambda: events.append("step"), 300)
    assert events == ["step", "reset", "step", "step"]
    assert held == 700


@pytest.mark.parametrize("name", ["table4", "table10"])
def test_a_step_is_computed_as_training_would_and_leaves_the_global_randomness_alone(
    quick, monkeypatch, name
):
    computed, before = [], torch.get_rng_state()
    monkeypatch.setattr(timing, "set_computation", lambda *given: computed.append(given))
    settings = ("compile=True", "recompute=True", "precision=fp32")
    session = dataclasses.replace(quick, base=override(quick.base, settings), settings=settings)
    outcome = measure(session, name, EXPERIMENTS[name])
    assert torch.equal(torch.get_rng_state(), before)
    assert len(computed) == sum(bool(row.ours) for row in outcome.rows) > 0
    for model, config, device in computed:
        assert transformer_layers(model)
        assert (config.compile, config.recompute, device) == (True, True, quick.device)
    samples = "samples in fp32 by a kept decoder, not compiled"
    assert f"steps in fp32, compile, recompute; {samples}" in outcome.counts


def smallest_flow():
    """The first row of Table 10 that is for this scale."""
    rows = EXPERIMENTS["table10"].variants
    label = next(each.label for each in rows if not each.why_not("tiny"))
    return EXPERIMENTS["table10"].only([label])


def test_the_flow_alone_is_trained_by_the_optimiser_of_a_run(quick, monkeypatch):
    """Where it is not fused, a GPU holds a copy of the weights more."""
    made, adamw = [], torch.optim.AdamW

    def noted(*given, **settings):
        made.append(adamw(*given, **settings))
        return made[-1]

    monkeypatch.setattr(torch.optim, "AdamW", noted)
    measure(quick, "table10", smallest_flow())
    assert made
    assert all(each.defaults["fused"] for each in made)


def test_the_precision_of_steps_and_of_samples_is_said(quick):
    session = dataclasses.replace(quick, base=override(quick.base, ["precision=bf16"]))
    said = timing._conditions(session)
    assert said.startswith("steps in bf16; samples in fp32 by a kept decoder, not compiled; ")


def test_recomputed_layers_of_the_flow_keep_their_inputs_alone(quick):
    held = []
    for settings in ((), ("recompute=True",)):
        session = dataclasses.replace(quick, base=override(quick.base, settings), settings=settings)
        (row,) = [each for each in measure(session, "x", smallest_flow()).rows if each.ours]
        held += row.ours["memory_gb"]
    assert held[1] < held[0]
