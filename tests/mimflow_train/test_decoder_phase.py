import dataclasses
import math
import weakref
from itertools import pairwise

import pytest
import torch

from mimflow_train.config import DecoderPhaseConfig, DiscriminatorConfig, OptimConfig
from mimflow_train.config.overrides import override
from mimflow_train.decoder_phase import DecoderPhase
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import ConfigError, DivergedError
from mimflow_train.loop import Calls, train
from mimflow_train.micro_batches import Batch
from mimflow_train.pretrained import trained_model
from mimflow_train.run import train_phases
from mimflow_train.state import DecoderState, TrainState
from mimflow_train.storage.checkpoint import (
    joint_checkpoint,
    load_state,
    snapshot,
    write_checkpoint,
)
from mimflow_train.storage.run_folder import last_step
from mimflow_train.teachers import Targets

CPU = torch.device("cpu")
HEALTH = {
    *("steps_per_second", "images_per_second", "data_wait", "skipped_steps", "process_memory_gib")
}


@pytest.fixture
def config(config):
    """Three joint steps, then three of the decoder."""
    phase = DecoderPhaseConfig(
        steps=3,
        gan_weight=0.5,
        discriminator=DiscriminatorConfig(width=16, depth=1),
        optim=OptimConfig(lr=1e-3, ema_decay=0.9),
    )
    return dataclasses.replace(config, steps=3, decoder_phase=phase)


def run(config, data, state=None, *, until=6, save=lambda _: None):
    """Train from a state, or anew; return where it ended and the steps that were saved."""
    reports = []
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    state = state or TrainState(config, CPU)

    def stepped(state):
        reports.append(state.step)
        save(state)

    state = train_phases(context, state, data, until=until, calls=Calls(1, stepped))
    return state, reports


def test_a_run_that_is_in_its_decoder_phase_has_its_joint_phase_behind_it(config, data):
    state, _ = run(config, data, until=5)
    assert state.step == 5 or state.step == config.all_steps
    state.step = 5
    before = copies(state)
    again, saved = run(config, data, state, until=config.steps)  # --phase joint
    assert (again.step, saved) == (5, [])
    assert same(copies(again), before)


def copies(state):
    tensors = state.tensors().items()
    return {name: {key: value.clone() for key, value in part.items()} for name, part in tensors}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name][key])
        for name, part in first.items()
        for key, value in part.items()
    )


def test_decoder_phase_starts_from_the_average_and_trains_the_decoder_alone(config, data):
    joint, _ = run(config, data, until=3)
    average = {name: value.clone() for name, value in joint.ema.state_dict().items()}
    assert not same({"": joint.model.state_dict()}, {"": average})
    state, _ = run(config, data, joint)
    assert isinstance(state, DecoderState)
    for model in (state.model, state.ema):
        for name, value in model.state_dict().items():
            assert torch.equal(value, average[name]) != name.startswith("decoder."), name


def test_the_joint_state_is_gone_in_the_decoder_phase_whoever_has_its_name(config, data):
    config = dataclasses.replace(config, recompute=True)
    joint, seen = TrainState(config, CPU), []
    weights = [*map(weakref.ref, [*joint.model.parameters(), *joint.ema.parameters()])]

    def save(state):
        seen.append((state.phase, sum(each() is not None for each in weights)))

    run(config, data, joint, save=save)
    assert seen == [("joint", len(weights))] * 3 + [("decoder", 0)] * 3


def test_the_decoder_phase_loads_no_teachers(config, data, monkeypatch):
    def fail(*_):
        raise AssertionError("a teacher is loaded")

    start = DecoderState.after(TrainState(config, CPU), CPU)
    monkeypatch.setattr(Targets, "load", fail)
    state, _ = run(config, data, start)
    assert state.step == 6


def test_every_weight_of_decoder_and_discriminator_moves(config, data):
    joint, _ = run(config, data, until=3)
    start = DecoderState.after(joint, torch.device("cpu"))
    before = copies(start)
    state, _ = run(config, data, start)
    after = state.tensors()
    for name, value in after["discriminator"].items():
        assert not torch.equal(value, before["discriminator"][name]), name
    for name, value in after["model"].items():
        if name.startswith("decoder."):
            assert not torch.equal(value, before["model"][name]), name


def test_both_phases_number_their_steps_through_and_save_at_their_ends(config, data):
    state, saved = run(config, data)
    assert saved == [1, 2, 3, 4, 5, 6]
    assert state.step == state.end == config.all_steps == 6
    joint, saved = run(config, data, until=config.steps)
    assert (type(joint), saved) == (TrainState, [1, 2, 3])


def test_continued_decoder_phase_equals_an_uninterrupted_one(config, data, tmp_path):
    whole, _ = run(config, data)
    kept = {}
    run(
        config,
        data,
        save=lambda s: kept.update({s.step: write_checkpoint(snapshot(s), config, tmp_path)}),
    )
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000003",  # the end of the joint phase stays
        "step_00000005",
        "step_00000006",
    ]
    for step in (3, 5):
        torch.manual_seed(99)
        state, _ = run(config, data, load_state(kept[step], config, CPU))
        assert same(state.tensors(), whole.tensors())


def test_what_is_shown_and_judged_is_the_average(config, data, tmp_path):
    state, _ = run(config, data)
    write_checkpoint(snapshot(state), config, tmp_path)
    model = trained_model(config, tmp_path, CPU)
    assert same({"": model.state_dict()}, {"": state.ema.state_dict()})
    assert not same({"": model.state_dict()}, {"": state.model.state_dict()})


def test_average_follows_the_decoder_with_the_decay_of_the_phase(config, data):
    states = []
    run(config, data, save=lambda s: states.append(copies(s)) if s.step >= 3 else None)
    name = "decoder.head.bias"
    for number, (earlier, later) in enumerate(pairwise(states)):
        decay = min(0.9, (1 + number) / (10 + number))
        wanted = decay * earlier["ema"][name] + (1 - decay) * later["model"][name]
        torch.testing.assert_close(later["ema"][name], wanted)


def test_micro_batches_add_up_to_the_batch(config, data):
    config = dataclasses.replace(
        config, decoder_phase=dataclasses.replace(config.decoder_phase, steps=1)
    )
    joint, _ = run(config, data, until=3)

    def values(micro_batch):
        reports = []
        context = LocalContext(CPU, lambda _, each: reports.append(each), StopRequest())
        parts = dataclasses.replace(config, micro_batch=micro_batch)
        state = DecoderState.after(joint, torch.device("cpu"))
        train(context, parts, data, state=state, calls=Calls(9, lambda _: None))
        return {name: value for name, value in reports[-1].items() if name not in HEALTH}

    whole, parts = values(0), values(2)
    assert whole.keys() == {
        *("pixel", "gan", "discriminator", "loss", "gradient_norm", "discriminator_norm"),
        "learning_rate",
    }
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-3), name


class Norms(torch.nn.Module):
    """A discriminator whose forward pass moves what it judges by, as spectral norms do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("norm", torch.ones(()))

    def forward(self, image):
        if self.training:
            self.norm.mul_(3.0)
        return self.weight * image.mean((1, 2, 3)) / self.norm


def test_all_parts_of_a_batch_are_judged_by_the_same_spectral_norms(config, data):
    def gradients(micro_batch):
        parts = dataclasses.replace(config, micro_batch=micro_batch)
        state = DecoderState(parts, CPU)
        state.discriminator = Norms()
        phase = DecoderPhase(
            state, LocalContext(CPU, lambda *_: None, StopRequest()), parts, Targets(None, {}, {})
        )
        generator = torch.Generator().manual_seed(1)
        image = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
        phase.skip()
        phase.gradients(Batch(image, torch.zeros(8).long(), torch.arange(8)), draws)
        return torch.cat([each.grad.flatten() for each in phase.decoder])

    config = override(config, ["loss.pixel=0", "loss.perceptual=0", "decoder_phase.gan_weight=9"])
    draws = draw_step(config, 3, slice(0, 8))
    torch.testing.assert_close(gradients(2), gradients(0), rtol=1e-4, atol=1e-6)


def changed(config, **fields):
    return dataclasses.replace(
        config, decoder_phase=dataclasses.replace(config.decoder_phase, **fields)
    )


def test_adversarial_gradients_of_a_part_are_let_go_when_they_are_added(config, data, monkeypatch):
    config = dataclasses.replace(changed(config, adaptive=True), micro_batch=2)
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    phase = DecoderPhase(DecoderState(config, CPU), context, config, Targets(None, {}, {}))
    decode, judge, kept, alive = phase._learn_to_decode, phase._learn_to_judge, [], []

    def decoded(*given):
        fake, gradients = decode(*given)
        kept.append([weakref.ref(each) for each in gradients])
        return fake, gradients

    def judged(*given):
        alive.append(sum(each() is not None for part in kept[1:] for each in part))
        judge(*given)

    monkeypatch.setattr(phase, "_learn_to_decode", decoded)
    monkeypatch.setattr(phase, "_learn_to_judge", judged)
    image = data.train.images.pixels[:8].float() / 127.5 - 1
    batch = Batch(image, torch.zeros(8).long(), torch.arange(8))
    phase.gradients(batch, draw_step(config, 3, slice(0, 8)))
    assert len(kept) == 4
    assert all(kept)
    assert alive == [0] * 4


OPTIONS = {
    "plain": {},
    "adaptive": {"adaptive": True},
    "augment": {"augment": True},
    "fresh": {"fresh_fakes": True},
    "lecam": {"lecam_weight": 0.1},
    "all": {"adaptive": True, "augment": True, "fresh_fakes": True, "lecam_weight": 0.1},
}


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_every_option_resumes_exactly_and_counts_micro_batches_for_one(
    fields, config, data, tmp_path
):
    config = changed(config, **fields)
    kept = {}
    whole, _ = run(
        config,
        data,
        save=lambda s: kept.update({s.step: write_checkpoint(snapshot(s), config, tmp_path)}),
    )
    resumed, _ = run(config, data, load_state(kept[5], config, CPU))
    assert same(resumed.tensors(), whole.tensors())
    parts, _ = run(dataclasses.replace(config, micro_batch=2), data)
    for name, value in whole.model.decoder.state_dict().items():
        other = parts.model.decoder.state_dict()[name]
        torch.testing.assert_close(other, value, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "plain"])
def test_every_option_changes_what_is_learned(name, config, data):
    plain, _ = run(changed(config, steps=2), data, until=5)
    other, _ = run(changed(config, steps=2, **OPTIONS[name]), data, until=5)
    assert not same({"": plain.discriminator.state_dict()}, {"": other.discriminator.state_dict()})


def test_adaptive_weight_compares_gradients_at_the_last_layer(config, data, monkeypatch):
    """Without the other terms' gradients nothing is left of the adversarial one."""
    config = changed(config, adaptive=True, steps=1)
    joint, _ = run(config, data, until=3)
    reports = []
    context = LocalContext(CPU, lambda _, values: reports.append(values), StopRequest())
    state = DecoderState.after(joint, torch.device("cpu"))
    train(context, config, data, state=state, calls=Calls(9, lambda _: None))
    weight = reports[-1]["gan_weight"]
    assert weight > 0
    assert reports[-1]["loss"] == pytest.approx(
        config.loss.pixel * reports[-1]["pixel"] + weight * reports[-1]["gan"], rel=1e-4
    )
    blind = dataclasses.replace(config, loss=dataclasses.replace(config.loss, pixel=0.0))
    state = DecoderState.after(joint, torch.device("cpu"))
    train(context, blind, data, state=state, calls=Calls(9, lambda _: None))
    assert reports[-1]["gan_weight"] == 0


def test_fresh_fakes_are_images_of_8_bit_by_the_updated_decoder(config, data):
    config = changed(config, fresh_fakes=True, steps=1)
    joint, _ = run(config, data, until=3)
    state, seen = DecoderState.after(joint, torch.device("cpu")), []
    state.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    run(config, data, state, until=4)
    for_decoder, pair = seen
    fakes = pair.chunk(2)[1]
    values = (fakes + 1) * 127.5
    assert (values - values.round()).abs().max() < 1e-3
    assert (fakes - for_decoder).abs().max() > 1 / 255, "the decoder has moved in between"


def test_raw_weights_are_shown_judged_and_trained_on_if_the_config_says_so(config, data, tmp_path):
    config = dataclasses.replace(config, weights="raw")
    joint, _ = run(config, data, until=3)
    start = DecoderState.after(joint, torch.device("cpu"))
    assert same({"": start.model.state_dict()}, {"": joint.model.state_dict()})
    state, _ = run(config, data, start)
    write_checkpoint(snapshot(state), config, tmp_path)
    model = trained_model(config, tmp_path, CPU)
    assert not model.training
    assert state.model.training
    assert same({"": model.state_dict()}, {"": state.model.state_dict()})
    assert not same({"": model.state_dict()}, {"": state.ema.state_dict()})


def test_presets_are_the_two_published_recipes(config):
    released, rae = DecoderPhaseConfig.preset("released"), DecoderPhaseConfig.preset("rae")
    assert (released.gan_weight, released.discriminator.kind, released.adaptive) == (
        *(0.05, "patch", False),
    )
    assert (rae.gan_weight, rae.discriminator.kind) == (0.05, "dino")
    assert rae.adaptive
    assert rae.augment
    assert rae.fresh_fakes
    chosen = override(config, ["decoder_phase=rae", "decoder_phase.gan_weight=0.1"]).decoder_phase
    recipe = config.decoder_phase.optim
    assert chosen == dataclasses.replace(rae, steps=3, gan_weight=0.1, optim=recipe)
    assert recipe != rae.optim
    with pytest.raises(ConfigError, match="decoder phase of released or rae; got vqgan"):
        override(config, ["decoder_phase=vqgan"])


def test_discriminator_learns_to_tell_real_from_decoded(config, data):
    config = dataclasses.replace(
        config, decoder_phase=dataclasses.replace(config.decoder_phase, steps=40)
    )
    state, _ = run(config, data, until=config.all_steps)
    real = data.train.stack(range(16)).float() / 127.5 - 1
    with torch.no_grad():
        z = state.model.encoder(real).mean
        gap = state.discriminator(real).mean() - state.discriminator(state.model.decoder(z)).mean()
    assert gap > 0.2


def test_phase_decides_where_a_run_ends(config, tmp_path):
    assert last_step(config, tmp_path, "joint") == 3
    assert last_step(config, tmp_path, "all") == 6
    with pytest.raises(ConfigError, match=r"joint phase of 3 steps in .*got 0 steps"):
        last_step(config, tmp_path, "decoder")
    joint_checkpoint(config, tmp_path).mkdir(parents=True)
    assert last_step(config, tmp_path, "decoder") == 6
    without = dataclasses.replace(
        config, decoder_phase=dataclasses.replace(config.decoder_phase, steps=0)
    )
    with pytest.raises(ConfigError, match=r"decoder_phase\.steps above 0 for --phase decoder"):
        last_step(without, tmp_path, "decoder")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscriminatorConfig(width=20), "discriminator.width in multiples of 16; got 20"),
        (lambda: DiscriminatorConfig(depth=0), "discriminator.depth >= 1; got 0"),
        (lambda: DecoderPhaseConfig(lecam_weight=-1.0), r"lecam_weight >= 0; got -1.0"),
        (lambda: DecoderPhaseConfig(steps=-1), "decoder_phase.steps >= 0; got -1"),
        (lambda: DecoderPhaseConfig(gan_weight=-1.0), r"decoder_phase.gan_weight >= 0; got -1.0"),
    ],
)
def test_bad_phase_is_named_with_its_value(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_discriminator_must_fit_the_image(config):
    deep = dataclasses.replace(
        config.decoder_phase, discriminator=DiscriminatorConfig(width=16, depth=3)
    )
    with pytest.raises(ConfigError, match=r"images of 16 px, at least 3 . 2.depth; got 3"):
        dataclasses.replace(config, decoder_phase=deep)


def test_a_discriminator_without_finite_gradients_is_noted_and_then_stops_the_run(
    config, data, monkeypatch
):
    config = changed(config, fresh_fakes=True, lecam_weight=0.1, steps=9)
    joint, _ = run(config, data, until=3)
    state, skipped, steps = DecoderState.after(joint, torch.device("cpu")), [], []
    before = copies(state)
    monkeypatch.setattr(
        DecoderPhase, "_fresh_fakes", lambda _, part: torch.full_like(part.image, torch.nan)
    )
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    calls = Calls(99, lambda _: None, skipped.append, steps.append)
    with pytest.raises(DivergedError, match=r"3 steps in a row.* Lower decoder_phase\.optim\.lr"):
        train(context, config, data, state=state, calls=calls)
    assert [each.step for each in skipped] == [3, 4, 5]
    assert math.isnan(skipped[0].terms["discriminator_norm"])
    assert steps == [4, 5]
    for name in ("discriminator", "lecam"):
        for key, value in state.tensors()[name].items():
            assert value.isfinite().all(), f"{name}: {key}"
    assert all(
        torch.equal(value, before["lecam"][key]) for key, value in state.lecam.state_dict().items()
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_a_divergence_of_the_discriminator_is_told_as_such(config, data, fresh):
    config = changed(config, fresh_fakes=fresh)
    joint, _ = run(config, data, until=3)
    state = DecoderState.after(joint, torch.device("cpu"))
    last = [*state.discriminator.parameters()][-1]
    last.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    with pytest.raises(DivergedError) as diverged:
        run(config, data, state)
    said = str(diverged.value)
    assert "non-finite terms: discriminator_norm;" in said
    assert ("the last of them discriminator." in said) is not fresh, (
        "a step has spent its gradients"
    )


def test_a_term_of_one_worker_alone_skips_no_step(config, data, monkeypatch):
    """Another worker would go on, and wait for one that starts anew."""
    config = changed(config, fresh_fakes=True, steps=4)
    joint, _ = run(config, data, until=3)
    state, skipped = DecoderState.after(joint, torch.device("cpu")), []
    update = DecoderPhase.update
    monkeypatch.setattr(
        DecoderPhase,
        "update",
        lambda phase: update(phase) | {"discriminator": torch.tensor(math.inf)},
    )
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    train(context, config, data, state=state, calls=Calls(99, lambda _: None, skipped.append))
    assert skipped == []
    assert state.step == state.end
