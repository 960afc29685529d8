"""Runs are trained once, shared between equal configurations, and scored once."""

import dataclasses
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.mimflow_train.reproduce.conftest import kept

from mimflow_train.config.overrides import override
from mimflow_train.convolutional import ConvolutionalDecoder
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import DivergedError, StorageError
from mimflow_train.evaluation.class_probe import encode_means
from mimflow_train.micro_batches import Batch
from mimflow_train.phases import phase_of
from mimflow_train.plan import Plan
from mimflow_train.recipes import tiny
from mimflow_train.reproduce import figures, rows, scoring, trained
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.estimate import left_text
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.figures import map_latents
from mimflow_train.reproduce.scoring import score
from mimflow_train.reproduce.tables import score_rows
from mimflow_train.reproduce.trained import InterruptedRunError
from mimflow_train.reproduce.two_stage import fixed_autoencoder, train_two_stages
from mimflow_train.reproduce.variants import autoencoder_config, variant_config
from mimflow_train.run import run_local
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import fingerprint, joint_checkpoint
from mimflow_train.storage.lock import locked_in_turn
from mimflow_train.storage.run_folder import checkpoints
from mimflow_train.teachers import Targets
from tarflow_prior import Guidance


def weights(model):
    return torch.cat([each.flatten() for each in model.parameters()])


def test_equal_configurations_share_a_folder(session):
    base = session.base
    same = override(base, ["micro_batch=4", "data.loaders=2"])
    assert session.run_dir(same) == session.run_dir(base)
    others = [override(base, [each]) for each in ("seed=1", "mask.low=0.3", "steps=4")]
    assert len({session.run_dir(each) for each in [base, *others]}) == 4


def test_the_same_images_at_another_place_share_a_folder(session):
    def folder(**images):
        data = dataclasses.replace(session.base.data, **images)
        return session.run_dir(dataclasses.replace(session.base, data=data))

    assert folder(source="a", fingerprint="1") == folder(source="b", fingerprint="1")
    assert folder(source="a", fingerprint="1") != folder(source="a", fingerprint="2")
    assert folder(source="a", fingerprint="") != folder(source="b", fingerprint="")


def test_guidance_is_of_the_samples_and_makes_no_other_run(session):
    others = [override(session.base, [f"guidance={each}"]) for each in (0.0, 3.0, 7.5)]
    assert {session.run_dir(each) for each in others} == {session.run_dir(session.base)}


def test_finished_runs_are_found_under_the_names_that_they_have(session):
    assert session.run_dir(tiny()).name == "tiny-joint-57ccb8311e-seed0"


def test_a_run_that_is_there_is_not_trained_again(session, monkeypatch):
    first = trained.trained(session, session.base)
    monkeypatch.setattr("mimflow_train.run.run_local", None)
    again = trained.trained(session, session.base)
    assert torch.equal(weights(first.model), weights(again.model))
    assert first.checkpoint == again.checkpoint


def test_the_joint_phase_is_kept_beside_the_decoders(session):
    config = override(
        session.base,
        ["decoder_phase.steps=2", "decoder_phase.discriminator.width=16"],
    )
    joint = trained.trained(session, config)
    both = trained.trained(session, config, decoder_phase=True)
    again = trained.trained(session, config)
    assert torch.equal(weights(joint.model), weights(again.model))
    assert torch.equal(weights(joint.model.flow), weights(both.model.flow))
    assert not torch.equal(weights(joint.model.decoder), weights(both.model.decoder))


def test_a_stopped_run_ends_the_command_with_its_signal(session, monkeypatch):
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *_: 15)
    with pytest.raises(InterruptedRunError, match="same command again") as ended:
        trained.trained(session, session.base)
    assert ended.value.exit_code == 143


@pytest.mark.parametrize(("scale", "steps"), [("tiny", 250), ("L", 2500)])
def test_checkpoints_are_as_far_apart_as_the_scale_s(session, monkeypatch, scale, steps):
    plans = []
    monkeypatch.setattr("mimflow_train.run.run_local", lambda *given: plans.append(given[-1]) or 15)
    with pytest.raises(InterruptedRunError):
        trained.trained(session, dataclasses.replace(session.base, scale=scale))
    assert [plan.checkpoint_every for plan in plans] == [steps]


@pytest.fixture
def whole_run(session, kept_runs):
    """A run that was trained through its decoder's phase."""
    config = override(
        session.base, ["decoder_phase.steps=2", "decoder_phase.discriminator.width=16"]
    )
    train = partial(trained.trained, session, config, decoder_phase=True)
    return kept(kept_runs / "decoder phase", session, train)


@pytest.fixture
def fixed(session):
    """A row of Table 1: a flow on a fixed convolutional autoencoder."""
    base = override(session.base, ["decoder_phase.steps=2", "decoder_phase.discriminator.width=16"])
    row = Variant(label="fixed", convolutional=True, two_stage=True, decoder_phase=True)
    session = dataclasses.replace(session, base=base)
    return session, variant_config(base, EXPERIMENTS["table9"], row, 0)


@pytest.fixture
def first_stage(fixed, kept_runs):
    """The autoencoder of that row, trained."""
    session, config = fixed
    train = partial(trained.trained, session, autoencoder_config(config))
    return kept(kept_runs / "first stage", session, train)


@pytest.fixture
def flow(fixed, first_stage, kept_runs):
    """The row's flow, trained on that."""
    train = partial(train_two_stages, *fixed, decoder_phase=False)
    return kept(kept_runs / "flow", fixed[0], train)


def parts(model, *names):
    return torch.cat([weights(getattr(model, name)) for name in names])


def test_the_stages_follow_each_other(fixed, first_stage, flow):
    session, config = fixed
    first, flow = first_stage.model, flow.model
    both = train_two_stages(session, config, decoder_phase=True).model
    for model in (flow, both):
        assert torch.equal(parts(model, "encoder"), parts(first, "encoder"))
        assert not torch.equal(parts(model, "flow"), parts(first, "flow"))
    assert torch.equal(parts(flow, "decoder"), parts(first, "decoder"))
    assert torch.equal(parts(both, "flow"), parts(flow, "flow"))
    assert not torch.equal(parts(both, "decoder"), parts(flow, "decoder"))


def test_the_flows_stage_computes_the_flow_alone(fixed, monkeypatch):
    session, config = fixed
    monkeypatch.setattr(ConvolutionalDecoder, "forward", lambda *_, **__: pytest.fail("decodes"))
    state = TrainState(config, session.device)
    assert not any(each.requires_grad for each in state.model.encoder.parameters())
    context = LocalContext(session.device, lambda *_: None, StopRequest())
    rows = slice(0, config.global_batch)
    images = torch.zeros(config.global_batch, 3, 16, 16)
    numbers = torch.zeros(config.global_batch, dtype=torch.int64)
    phase = phase_of(state, context, config, Targets(None, {}, {}))
    terms = phase.gradients(Batch(images, numbers, numbers), draw_step(config, 0, rows))
    assert set(terms) == {"nll", "loss"}
    named = state.model.named_parameters()
    learning = {name.split(".")[0] for name, each in named if each.grad is not None}
    assert learning == {"flow"}


def test_the_flow_sees_latents_of_deviation_one(flow, data):
    model = flow.model
    mean = encode_means(model, data.train, range(16)).mean
    torch.testing.assert_close(mean.std(), torch.tensor(1.0))
    assert model.encoder.scale == model.decoder.scale != 1


def test_the_first_stage_alone_has_the_latents_that_a_flow_would_see(fixed, first_stage, data):
    session, config = fixed
    alone = fixed_autoencoder(session, config).model
    assert not session.run_dir(config).exists()
    whole = train_two_stages(session, config, decoder_phase=False).model
    alone, whole = (encode_means(each, data.train, range(16)).mean for each in (alone, whole))
    assert torch.equal(alone, whole)


def test_a_map_says_which_runs_its_latents_are_of(session, monkeypatch):
    monkeypatch.setattr(figures, "plot_latents", lambda *_, **__: None)
    base = override(session.base, ["loss.feature=0.0"])
    session = dataclasses.replace(session, base=base, seeds=(0,), quick=True)
    experiment = EXPERIMENTS["fig4"].only(["convolutional VAE"])
    row, *_ = map_latents(session, "fig4", experiment).rows
    assert [(each.seed, each.steps) for each in row.runs] == [(0, 3)]
    assert left_text(session, experiment).startswith("All is trained")


def test_a_flow_in_two_pieces_is_one(fixed, flow, tmp_path):
    session, config = fixed
    folder = session.run_dir(config)
    beginning = folder / "checkpoints/step_00000000"
    assert [each.name for each in checkpoints(folder)] == ["step_00000000", "step_00000003"]
    (tmp_path / "again").mkdir()
    shutil.copytree(beginning, tmp_path / "again/checkpoints/step_00000000")
    for _ in range(2):  # from step 0, then from step 2
        run_local(config, tmp_path / "again", session.device, Plan(until=3, checkpoint_every=2))
        end = tmp_path / "again/checkpoints/step_00000003"
        assert (end.with_name("step_00000002").exists(), fingerprint(end)) == (
            True,
            flow.checkpoint,
        )
        shutil.rmtree(end)


def test_scores_name_the_run_that_they_are_of(fixed, flow):
    session, config = fixed
    score(session, flow, None, 16)
    found = [json.loads(each.read_text()) for each in session.out.glob("scores/*/scores.json")]
    assert {each["of"]["part"] for each in found} == {"samples", "autoencoder"}
    for each in found:
        named = session.out / "runs" / each["of"]["run"]
        assert fingerprint(joint_checkpoint(config, named)) == flow.checkpoint


def test_the_same_weights_are_scored_once(session, run, monkeypatch):
    first = score(session, run, None, 16)
    assert set(first) == {
        "gfid", "is", "precision", "recall", "rfid", "rfid_masked", "fd_rebuilt", "psnr",
        "accuracy", "accuracy_features",
    }  # fmt: skip
    monkeypatch.setattr(scoring, "Evaluator", None)
    assert score(session, run, None, 16) == first
    with pytest.raises(TypeError):
        score(session, run, Guidance(2.0), 16)


@pytest.mark.parametrize(
    ("guidance", "num"), [(Guidance(2.0), 16), (None, 5)], ids=["guidance", "number"]
)
def test_other_samples_repeat_no_reconstruction_and_no_probe(
    guidance, num, session, run, monkeypatch
):
    first = score(session, run, None, 16)
    for name in ("_reconstructions", "probe_encoder"):
        monkeypatch.setattr(scoring, name, None)
    other = score(session, run, guidance, num)
    of_samples = {"gfid", "is", "precision", "recall"}
    assert other["gfid"] != first["gfid"]
    assert {key: other[key] for key in other if key not in of_samples} == {
        key: first[key] for key in first if key not in of_samples
    }


CHANGES = ["checkpoint", "weights", "mask", "images", "extractor", "version"]


def changed(change, session, run, monkeypatch):
    if change == "checkpoint":
        run = run._replace(checkpoint="0" * 16)
    elif change == "images":
        data = dataclasses.replace(session.base.data, fingerprint="other")
        session = dataclasses.replace(session, base=dataclasses.replace(session.base, data=data))
    elif change == "weights":
        run = run._replace(config=override(run.config, ["weights=raw"]))
    elif change == "mask":
        run = run._replace(config=override(run.config, ["mask.low=0.3"]))
    elif change == "extractor":
        other = dataclasses.replace(session.extractor, weights_sha256="0")
        vars(session)["extractor"] = other
    elif change == "version":
        monkeypatch.setattr(scoring, "SCORING_VERSION", 0)
    return session, run


@pytest.mark.parametrize("change", [*CHANGES, "num"])
def test_nothing_that_changes_a_score_shows_an_old_one(change, session, run, monkeypatch):
    score(session, run, None, 16)
    monkeypatch.setattr(scoring, "Evaluator", None)
    session, run = changed(change, session, run, monkeypatch)
    with pytest.raises(TypeError):
        score(session, run, None, 5 if change == "num" else 16)


@pytest.mark.parametrize("change", CHANGES)
def test_nor_an_old_one_of_reconstructions(change, session, run, monkeypatch):
    for name in ("_samples", "_autoencoder"):
        monkeypatch.setattr(scoring, name, lambda *_: {})
    score(session, run, None, 16)
    monkeypatch.setattr(scoring, "_autoencoder", None)
    session, run = changed(change, session, run, monkeypatch)
    with pytest.raises(TypeError):
        score(session, run, None, 16)


def test_a_kill_while_scores_are_written_leaves_none(session, run, monkeypatch):
    write = Path.write_text

    def killed(path, text):
        write(path, text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            score(session, run, None, 16)
    assert "gfid" in score(session, run, None, 16)


def test_scores_that_another_command_makes_are_waited_for(session, run, monkeypatch):
    score(session, run, None, 16)
    folder = scoring.score_folder(session, run, None, 16)
    (folder / "scores.json").rename(folder / "later")
    monkeypatch.setattr(scoring, "Evaluator", None)
    found = []
    second = threading.Thread(target=lambda: found.append(score(session, run, None, 16)))
    with locked_in_turn(folder):
        second.start()
        second.join(0.3)
        (folder / "later").rename(folder / "scores.json")
    second.join()
    assert found == [score(session, run, None, 16)]


def damaged(folder):
    (folder / "ema.safetensors").write_bytes(b"torn")
    return folder


def test_a_damaged_last_checkpoint_is_trained_again(session, whole_run):
    damaged(checkpoints(session.run_dir(whole_run.config))[-1])
    again = trained.trained(session, whole_run.config, decoder_phase=True)
    assert again.checkpoint == whole_run.checkpoint
    assert torch.equal(weights(again.model), weights(whole_run.model))


def test_a_damaged_joint_checkpoint_below_a_later_one_is_refused(session, whole_run):
    config = whole_run.config
    damaged(joint_checkpoint(config, session.run_dir(config)))
    with pytest.raises(StorageError, match="does not match its checksum"):
        trained.trained(session, config)


def test_a_row_that_diverges_is_said_to(session, monkeypatch):
    def diverge(*_):
        raise DivergedError("", 0)

    monkeypatch.setattr(rows, "train_row", diverge)
    experiment = Experiment(title="", measure="scores", variants=(Variant(label="a"),))
    outcome = score_rows(session, "x", experiment)
    assert outcome.rows[0].lost == "diverged at seed 0, 1"
    assert outcome.rows[0].why_not == ""
    assert outcome.rows[0].ours == {}
