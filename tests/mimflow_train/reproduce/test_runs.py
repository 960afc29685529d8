"""Runs are trained once, shared between equal configurations, and scored once."""

import os
import signal

import pytest
import torch

from mimflow_train.checkpoint import checkpoints
from mimflow_train.errors import DivergedError
from mimflow_train.overrides import override
from mimflow_train.reproduce import rows, scoring, trained, two_stage
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.scoring import draw_samples, score
from mimflow_train.reproduce.tables import score_rows
from mimflow_train.reproduce.trained import InterruptedRunError
from mimflow_train.reproduce.two_stage import train_two_stages
from tarflow_prior import Guidance


def weights(model):
    return torch.cat([each.flatten() for each in model.parameters()])


def test_equal_configurations_share_a_folder(session):
    base = session.base
    same = override(base, ["micro_batch=4", "data.loaders=2"])
    assert session.run_dir(same) == session.run_dir(base)
    others = [override(base, [each]) for each in ("seed=1", "mask.low=0.3", "steps=4")]
    assert len({session.run_dir(each) for each in [base, *others]}) == 4


def test_a_run_that_is_there_is_not_trained_again(session, monkeypatch):
    first = trained.trained(session, session.base)
    monkeypatch.setattr(trained, "run_local", None)
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
    monkeypatch.setattr(trained, "run_local", lambda *_: 15)
    with pytest.raises(InterruptedRunError, match="same command again") as ended:
        trained.trained(session, session.base)
    assert ended.value.exit_code == 143


def test_two_runs_of_the_flow_in_pieces_are_one(session, monkeypatch, tmp_path):
    config = override(session.base, ["loss.feature=0.0"])
    whole = train_two_stages(session, config)
    folder = session.run_dir(config, "flow")
    assert [each.name for each in checkpoints(folder)] == ["step_00000003"]
    folder.rename(tmp_path / "whole")
    monkeypatch.setattr(two_stage, "_SAVE_EVERY", 1)

    class StoppedError(Exception):
        pass

    def stop_after_two(*arguments):
        path = write(*arguments)
        if path.name == "step_00000002":
            raise StoppedError
        return path

    write = two_stage.write_checkpoint
    with monkeypatch.context() as patched:
        patched.setattr(two_stage, "write_checkpoint", stop_after_two)
        with pytest.raises(StoppedError):
            train_two_stages(session, config)
    again = train_two_stages(session, config)
    assert torch.equal(weights(whole.model), weights(again.model))


def test_a_signal_saves_the_flow_and_ends_the_command(session, monkeypatch):
    config = override(session.base, ["loss.feature=0.0"])
    step = two_stage.take_step

    def interrupted(*arguments):
        step(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    trained.trained(session, two_stage.autoencoder_config(session.base, config))
    monkeypatch.setattr(two_stage, "take_step", interrupted)
    with pytest.raises(InterruptedRunError) as ended:
        train_two_stages(session, config)
    assert ended.value.exit_code == 143
    names = [each.name for each in checkpoints(session.run_dir(config, "flow"))]
    assert names == ["step_00000001"]


def test_the_second_stage_leaves_the_autoencoder_as_it_is(session):
    first = trained.trained(session, override(session.base, ["loss.nll=0.0"]))
    second = train_two_stages(session, session.base)
    for part in ("encoder", "decoder"):
        ours, theirs = getattr(second.model, part), getattr(first.model, part)
        assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(second.model.flow), weights(first.model.flow))


def test_samples_are_decoded_at_the_latents_own_scale(session, data):
    run = trained.trained(session, session.base)
    label = data.held_out.labels
    z = run.model.flow.sample(label[:5], generator=scoring.generator(0, "reproduce samples"))
    wanted = scoring.decode(run.model, 3.0 * z)
    drawn = torch.cat([*draw_samples(run._replace(latent_scale=3.0), label[:5], None)])
    assert torch.equal(drawn, wanted)


def test_the_same_weights_are_scored_once(session, monkeypatch):
    run = trained.trained(session, session.base)
    first = score(session, run, None)
    assert set(first) == {
        "gfid", "is", "precision", "recall", "rfid", "rfid_masked", "psnr", "accuracy"
    }  # fmt: skip
    monkeypatch.setattr(scoring, "evaluate", None)
    assert score(session, run, None) == first
    with pytest.raises(TypeError):
        score(session, run, Guidance(2.0))


def test_a_row_that_diverges_is_said_to(session, monkeypatch):
    def diverge(*_):
        raise DivergedError

    monkeypatch.setattr(rows, "train_row", diverge)
    experiment = Experiment(title="", measure="scores", variants=(Variant(label="a"),))
    outcome = score_rows(session, "x", experiment)
    assert outcome.rows[0].lost == "diverged at seed 0, 1"
    assert outcome.rows[0].why_not == ""
    assert outcome.rows[0].ours == {}
