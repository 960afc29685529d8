"""What scores of a run are asked for."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from genmetrics import evaluate
from mimflow_train.data.images import LabelledImages, Split, in_batches
from mimflow_train.evaluation import selection
from mimflow_train.evaluation.class_probe import ClassProbe
from mimflow_train.evaluation.features import features_of
from mimflow_train.reproduce import figures, scoring, tables
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.figures import map_latents, probe_depths
from mimflow_train.reproduce.paper import TABLE1
from mimflow_train.reproduce.session import Session, digest
from mimflow_train.reproduce.tables import score_columns, score_rows
from mimflow_train.reproduce.trained import Trained
from mimflow_train.reproduce.variants import variant_config
from mimflow_train.state import TrainState
from tarflow_prior import Guidance


def test_held_out_images_that_others_stand_in_for_are_named(config, folder, tmp_path, capsys):
    images = dataclasses.replace(config.data, source=str(folder), class_names=("blue", "red"))
    flow = dataclasses.replace(config.model.flow, num_classes=2)
    model = dataclasses.replace(config.model, flow=flow)
    base = dataclasses.replace(config, data=images, model=model)
    session = Session(base=base, seeds=(0,), out=tmp_path, device=torch.device("cpu"))
    (folder / "red" / "7.png").write_bytes(b"no picture")
    for split in (session.data.train, session.data.held_out):
        split.stack(range(len(split.labels)))
    said = f"Cannot decode {folder / 'red' / '7.png'} (no image)"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize(
    ("network", "metrics"),
    [
        ("inception", ("fid", "sfid", "is", "pr")),
        ("efflite0", ("fid", "is", "pr")),
        ("timm:resnet18", ("fid", "pr")),
    ],
)
def test_spatial_features_are_inceptions_alone(
    network, metrics, session, run, monkeypatch, tmp_path
):
    asked = []

    def judging(*_, protocol, **__):
        asked.append(protocol.metrics)
        report = SimpleNamespace(scores={"sfid": SimpleNamespace(value=2.0)})
        return SimpleNamespace(update=lambda _: None, result=lambda: report)

    monkeypatch.setattr(scoring, "Evaluator", judging)
    session = dataclasses.replace(session, extractor_name=network)
    found = scoring._samples(session, run, None, 16, tmp_path)
    assert found == {"sfid": 2.0}
    assert asked == [metrics]


def test_rebuilt_training_images_are_others_of_the_same_classes(session, run, data):
    found = scoring._reconstructions(session, run)
    assert found["fd_rebuilt"] != pytest.approx(found["rfid"])
    same = with_classes(session, data, 16)  # of each class one image, to train on and held out
    found = scoring._reconstructions(same, run)
    assert found["fd_rebuilt"] == pytest.approx(found["rfid"])


def test_all_held_out_images_are_rebuilt_and_judged_however_many(session, run, monkeypatch):
    whole = scoring._reconstructions(session, run)
    assert len(session.real_features) == len(session.data.held_out.labels) == 16
    monkeypatch.setattr(selection, "_MOST_IMAGES", 4)  # which a run's own report thins them to
    vars(session).pop("real_features")
    assert scoring._reconstructions(session, run) == whole


def test_the_network_sees_the_held_out_images_once(session, run, monkeypatch):
    network = type(session.extractor.network)
    seen, forward = [], network.forward
    monkeypatch.setattr(network, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    for guidance in (None, Guidance(2.0)):
        scoring.score(session, run, guidance, 16)
    drawn, rebuilt, real = 2 * 16, 3 * 16, 16
    assert sum(seen) == drawn + rebuilt + real
    scoring.score(dataclasses.replace(session), run, Guidance(1.0), 16)
    assert sum(seen) == drawn + rebuilt + real + 16
    files = session.out.glob("scores/held-out-features/*/0*.npz")
    assert [each.name for each in files] == ["000000000-000000016.npz"]


def test_samples_score_as_their_file_does(session, run):
    found = scoring.score(session, run, None, 16)
    report = evaluate(
        scoring.score_folder(session, run, None, 16) / "samples.npz",
        session.reference,
        extractor=session.extractor,
        metrics=("fid", "is", "pr"),
        seed=run.config.seed,
    )
    assert found["gfid"] == report["fd_efflite0"].value
    assert found["is"] == report["is_efflite0"].value
    of_files = features_of(in_batches(session.data.held_out.images, 64), session.extractor)
    assert torch.equal(session.real_features, of_files)


def test_table_1_has_the_papers_sfid_with_guidance():
    found = {row: paper["sfid"] for row, paper in TABLE1.items() if "sfid" in paper}
    assert found == {
        "starflow guided": 20.54,
        "softplus removed guided": 18.98,
        "gated attention guided": 18.64,
    }
    assert "sfid" in {each.key for each in score_columns("inception")}


def with_classes(session, data, count):
    """The same sixteen images in up to 16 of many classes, for seed 0 alone."""
    label = torch.arange(16) * (count // 16)
    split = Split(data.train.images, label)
    session = dataclasses.replace(session, seeds=(0,), quick=True)
    vars(session)["data"] = LabelledImages(split, split, tuple(map(str, range(count))))
    return session


def test_probes_learn_from_fifty_images_of_each_class(session, run, data, monkeypatch):
    session = with_classes(session, data, 64)
    asked = []
    both = {"latents": 0.5, "features": 0.6}
    monkeypatch.setattr(scoring, "probe_encoder", lambda *rest: asked.append(rest[-1]) or both)
    probe = ClassProbe(n_train=16, n_held_out=16, chance=0.1, accuracy=both)
    monkeypatch.setattr(figures, "probe_classes", lambda *rest: asked.append(rest[-1]) or probe)
    monkeypatch.setattr(figures, "draw_depths", lambda *_: None)
    for name in ("_samples", "_reconstructions"):
        monkeypatch.setattr(scoring, name, lambda *_: {})
    found = scoring.score(session, run, None, 16)
    assert found == {"accuracy": 0.5, "accuracy_features": 0.6}
    probe_depths(session, "fig6", EXPERIMENTS["fig6"])
    assert asked == [3200, 3200]


def test_sd_vaes_kind_has_no_features_to_probe(session, monkeypatch):
    row = Variant(label="a", settings=("loss.feature=0.0",), convolutional=True)
    config = variant_config(session.base, EXPERIMENTS["table8"], row, 0)
    for name in ("_samples", "_reconstructions"):
        monkeypatch.setattr(scoring, name, lambda *_: {})
    run = Trained(TrainState(config, session.device).ema, config, "0" * 16)
    found = scoring.score(session, run, None, 16)
    assert set(found) == {"accuracy"}


def test_a_table_names_each_width_of_its_latents(session, monkeypatch):
    monkeypatch.setattr(tables, "measure_row", lambda *_: tables.Row(label="a"))
    wide = Variant(label="b", settings=("model.latent_dim=8",))
    left_out = Variant(label="c", settings=("model.latent_dim=9",), left_out=True)
    rows = (Variant(label="a"), wide, left_out)
    outcome = score_rows(session, "x", Experiment(title="", measure="scores", variants=rows))
    assert "6- and 8-d" in outcome.counts


def test_a_table_says_what_its_probe_learned_from(session, monkeypatch):
    monkeypatch.setattr(tables, "measure_row", lambda *_: tables.Row(label="a"))
    experiment = Experiment(title="", measure="scores", variants=(Variant(label="a"),))
    outcome = score_rows(session, "x", experiment)
    assert "learn from 16 training images spread over 3 classes, by latents pooled" in (
        outcome.counts
    )
    assert "6-d" in outcome.counts
    assert "REPA's protocol, which is not this one" in outcome.notes[0]
    assert len(outcome.notes) == 1
    inception = dataclasses.replace(session, extractor_name="inception")
    assert "ADM's batch" in score_rows(inception, "x", experiment).notes[1]


@pytest.mark.parametrize(
    ("scale", "num", "wanted"),
    [("tiny", 0, 16), ("L", 0, 10_000), ("L", 7, 7), ("tiny", 7, 7)],
)
def test_ablations_draw_ten_thousand_samples_off_tiny(
    scale, num, wanted, session, run, monkeypatch
):
    drawn, row = [], tables.Row(label="a")
    monkeypatch.setattr(tables, "score", lambda *rest: drawn.append(rest) or {"gfid": 1.0})
    monkeypatch.setattr(tables, "measure_row", lambda *rest: (rest[-1](run), row)[1])
    base = dataclasses.replace(session.base, scale=scale)
    session = dataclasses.replace(session, base=base, num=num)
    extractor, real = session.extractor, session.real_features
    experiment = dataclasses.replace(
        EXPERIMENTS["table9"], variants=(Variant(label="a"),), claims=()
    )
    outcome = score_rows(session, "x", experiment)
    ((used, *_, count),) = drawn
    assert (used.extractor is extractor, used.real_features is real) == (True, True)
    assert count == wanted
    assert outcome.counts.startswith(f"N = {wanted} samples")


def test_the_papers_numbers_of_samples_are_the_defaults():
    of = {name: each.num for name, each in EXPERIMENTS.items() if each.measure == "scores"}
    assert {name for name, num in of.items() if num == 50_000} == {"table3", "guidance"}
    assert set(of.values()) == {10_000, 50_000}


@pytest.mark.parametrize(("count", "shown"), [(16, 16), (64, 4)])
def test_a_map_is_of_twenty_classes_at_most(count, shown, session, run, data, monkeypatch):
    session = with_classes(session, data, count)
    drawn, known = [], []
    monkeypatch.setattr(
        figures, "plot_latents", lambda *_, labels, **__: drawn.append(set(labels.tolist()))
    )
    real = figures.knn_accuracy
    monkeypatch.setattr(
        figures, "knn_accuracy", lambda train, *rest: known.append(train) or real(train, *rest)
    )
    monkeypatch.setattr("mimflow_train.reproduce.rows.train_row", lambda *_: run)
    outcome = map_latents(session, "fig4", EXPERIMENTS["fig4"])
    assert [len(each) for each in drawn] == [shown] * 3
    assert [set(each.y.tolist()) for each in known] == drawn
    assert f"chance 1/{min(count, 20)}" in outcome.counts


def test_scores_from_before_there_was_an_attention_temperature_keep_their_place():
    assert digest({"guidance": scoring._told(Guidance(2.0))}) == "72350e7091"
    hot = scoring._told(Guidance(2.0, attention_temperature=1.5))
    assert hot["attention_temperature"] == 1.5
