import dataclasses
from itertools import pairwise

import pytest
import torch

from mimflow_train.checkpoint import joint_checkpoint, load_state, save_checkpoint
from mimflow_train.cli.train import last_step
from mimflow_train.config import DecoderPhaseConfig, DiscriminatorConfig, OptimConfig
from mimflow_train.context import LocalContext, StopRequest
from mimflow_train.discriminator import PatchDiscriminator, hinge_generator
from mimflow_train.errors import ConfigError
from mimflow_train.loop import train
from mimflow_train.objective import decoder_objective
from mimflow_train.run import train_phases, trained_model
from mimflow_train.state import DecoderState, TrainState

CPU = torch.device("cpu")


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

    state = train_phases(context, state, data, until=until, save_every=1, save=stepped)
    return state, reports


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


def test_every_weight_of_decoder_and_discriminator_moves(config, data):
    joint, _ = run(config, data, until=3)
    start = DecoderState.after(joint)
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
    run(config, data, save=lambda s: kept.update({s.step: save_checkpoint(s, config, tmp_path)}))
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
    save_checkpoint(state, config, tmp_path)
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
        state = DecoderState.after(joint)
        train(context, parts, data, state=state, save_every=9, save=lambda _: None)
        return reports[-1]

    whole, parts = values(0), values(2)
    assert whole.keys() == {
        *("pixel", "gan", "discriminator", "loss", "gradient_norm", "discriminator_norm")
    }
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-3), name


def test_discriminator_is_the_published_one():
    with torch.device("meta"):
        discriminator = PatchDiscriminator(DiscriminatorConfig())
        logits = discriminator(torch.empty(2, 3, 256, 256))
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_765_633
    assert logits.shape == (2, 1, 30, 30)


def test_logits_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(DiscriminatorConfig(width=16, depth=2))
    images = torch.randn(5, 3, 32, 32)
    together = discriminator(images)
    torch.testing.assert_close(together[1:2], discriminator(images[1:2]), atol=1e-5, rtol=1e-5)


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


def test_objective_adds_its_terms(config):
    image, target = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    logits = torch.full((1, 1, 2, 2), 3.0)
    weights = dataclasses.replace(config.loss, pixel=2.0, perceptual=5.0)
    objective = decoder_objective(
        image,
        target,
        logits,
        weights=weights,
        gan_weight=0.5,
        perceptual=lambda *_: torch.tensor(0.1),
    )
    assert hinge_generator(logits) == -3
    assert objective.terms.keys() == {"pixel", "gan", "perceptual"}
    torch.testing.assert_close(objective.total, torch.tensor(2 * 0.25 + 5 * 0.1 - 0.5 * 3))


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
