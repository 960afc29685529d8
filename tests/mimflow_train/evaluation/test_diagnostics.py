"""A trained model from inside: every number with its N, and the class kept from the probes."""

import dataclasses
import json

import pytest
import torch

from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.evaluation.class_probe import probe_classes, probe_encoder
from mimflow_train.evaluation.diagnostics import diagnose, write_diagnostics
from mimflow_train.model import MIMFlow


@pytest.fixture
def model(config):
    model = MIMFlow(config.model).eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=draw))
    return model


@pytest.fixture
def shades():
    """Images whose class is their brightness, 12 to train on and 5 held out."""

    def split(label):
        noise = torch.randint(0, 30, (len(label), 3, 16, 16), generator=torch.manual_seed(3))
        pixels = noise + 100 * label[:, None, None, None]
        return Split(MemoryImages(pixels.to(torch.uint8)), label)

    train = split(torch.tensor([0] * 6 + [1] * 4 + [2] * 2))
    return LabelledImages(train, split(torch.tensor([0, 0, 1, 2, 2])), ("a", "b", "c"))


def test_probe_finds_the_brightness(model, config, shades):
    found = probe_classes(model, config, shades)
    assert found.accuracy["features"] == 1
    assert list(found.accuracy)[2:] == ["latents", "block 1", "block 2"]
    assert found.chance == pytest.approx(1 / 3)


def test_probe_learns_from_no_image_twice(model, config, shades):
    found = probe_classes(model, config, shades)
    assert (found.n_train, found.n_held_out) == (12, 5)
    assert probe_classes(model, config, shades, 6).n_train == 6


@pytest.mark.parametrize("num_train", [6, 12])
def test_encoder_is_probed_alone_as_with_the_other_stages(model, config, shades, num_train):
    alone = probe_encoder(model, config, shades, num_train)
    every = probe_classes(model, config, shades, num_train).accuracy
    assert alone == {"latents": every["latents"], "features": every["features"]}


def test_flow_is_not_told_the_class_that_is_probed(model, config, shades, monkeypatch):
    told, states = [], model.flow.iter_states

    def recorded(z, label=None):
        told.append(label)
        return states(z, label)

    monkeypatch.setattr(model.flow, "iter_states", recorded)
    probe_classes(model, config, shades)
    assert told == [None, None], "training and held-out images"


def test_same_seed_gives_the_same_numbers(model, config, shades):
    assert diagnose(model, config, shades) == diagnose(model, config, shades)


def test_latents_without_the_class_are_the_same_latents(model, config, shades):
    with torch.no_grad():
        for block in model.flow.blocks:
            if block.classes is not None:
                block.classes.zero_()
    found = diagnose(model, config, shades).likelihood
    assert found["held_out"].mean == pytest.approx(found["held_out_no_class"].mean)
    assert found["held_out"].mean != pytest.approx(found["train"].mean)


def test_dead_latents_are_seen(model, config, shades):
    with torch.no_grad():
        model.encoder.to_latent.weight[1] *= 1e-3
    found = diagnose(model, config, shades).latents
    assert found.statistics.dead_share == pytest.approx(1 / 6)
    assert found.std_by_dim[-1] == pytest.approx(0, abs=1e-2)
    assert list(found.std_by_dim) == sorted(found.std_by_dim, reverse=True)


def test_file_holds_every_number_with_its_n(model, config, shades, tmp_path):
    found = diagnose(model, config, shades)
    plain = json.loads(write_diagnostics(found, tmp_path).read_text())
    assert plain["likelihood"]["samples"] == dataclasses.asdict(found.likelihood["samples"])
    assert {each["n"] for each in plain["likelihood"].values()} == {5}
    assert [plain[part]["n"] for part in ("base", "depth", "latents")] == [5, 5, 5]
    assert plain["num_inverted"] == 5
    assert plain["latents"]["statistics"]["std"] == found.latents.statistics.std
    assert len(plain["latents"]["places"]) == len(plain["latents"]["labels"]) == 5
