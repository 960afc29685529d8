import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.mimflow_train.conftest import SMALL

from genmetrics import LogisticProbe
from mim_encoder import MaskRatio
from mimflow_train.cli.summary import summary
from mimflow_train.config.overrides import override
from mimflow_train.data.images import ChosenImages, LabelledImages, MemoryImages, Split, to_bytes
from mimflow_train.evaluation import reconstruction, selection
from mimflow_train.evaluation import summary as module
from mimflow_train.evaluation.diagnostics import diagnose, write_diagnostics
from mimflow_train.evaluation.pictures import save_grid
from mimflow_train.evaluation.reconstruction import (
    Reconstruction,
    decode,
    encode,
    evaluate_reconstruction,
)
from mimflow_train.evaluation.run_pictures import grid_pixels, reconstruction_grid, sample_rows
from mimflow_train.evaluation.sampling import generate
from mimflow_train.evaluation.summary import evaluate
from mimflow_train.recipes import tiny
from mimflow_train.report.figures import latents_section
from mimflow_train.state import TrainState
from tarflow_prior import Guidance

CPU = torch.device("cpu")


@pytest.fixture
def model(config):
    return TrainState(config, CPU).ema


@pytest.fixture
def _small_network(extractor, monkeypatch):
    for each in (module, reconstruction):
        monkeypatch.setattr(each, "get_extractor", lambda *_, **__: extractor)


@pytest.mark.usefixtures("_small_network")
def test_scores_belong_together_and_repeat(config, data, model, monkeypatch):
    told = []
    monkeypatch.setattr(module, "_LEAST_GAP", 0.001)  # the small network tells less apart
    monkeypatch.setattr(
        "mimflow_train.evaluation.summary.counted",
        lambda batches, total, name: told.append((total, name)) or batches,
    )
    scores = evaluate(model, config, data)
    assert [total for total, _ in told] == [16] * 5
    assert {"samples", "reconstructions"} < {name for _, name in told}
    gap = scores.fd_gaussian - scores.fd_posterior
    assert gap > 0.001 * scores.fd_posterior
    closed = (scores.fd_gaussian - scores.fd_flow) / gap
    assert scores.gap_closed == pytest.approx(closed)
    assert (scores.num_images, scores.class_num_samples) == (16, 60)
    assert scores.class_chance == pytest.approx(1 / 3)
    assert dataclasses.asdict(evaluate(model, config, data)) == dataclasses.asdict(scores)


def raw_pixels(batches, _):
    return torch.cat([*batches]).float().flatten(1)


@pytest.mark.usefixtures("_small_network")
def test_perfect_prior_and_no_prior_bound_the_gap(config, data, model, monkeypatch):
    """Samples that are the posterior's close the gap; samples that are the Gaussian's do not."""
    distances = {}

    def rebuilt(distance):
        return Reconstruction(psnr=0.0, psnr_whole=0.0, fd_posterior=distance, fd_whole=distance)

    def record(features, reference):
        distances[len(distances)] = value = float(features.mean())
        return dataclasses.make_dataclass("Result", ["value"])(value)

    monkeypatch.setattr(module, "features_of", raw_pixels)
    monkeypatch.setattr(module, "frechet_distance_from_features", record)
    sets = {"posterior": 10, "flow": 10, "gaussian": 90}
    images = {name: torch.full((16, 3, 2, 2), shade) for name, shade in sets.items()}
    decoded = iter([images["posterior"], images["gaussian"]])
    monkeypatch.setattr(module, "decoded", lambda *_: [next(decoded).to(torch.uint8)])
    monkeypatch.setattr(module, "generate", lambda *_, **__: [images["flow"].to(torch.uint8)])
    monkeypatch.setattr(module, "evaluate_reconstruction", lambda *_, **__: rebuilt(10.0))
    monkeypatch.setattr(module, "logistic_probe", lambda *_, **__: FakeProbe())
    assert evaluate(model, config, data).gap_closed == pytest.approx(1.0)
    images["flow"] = images["gaussian"].clone()
    decoded = iter([images["posterior"], images["gaussian"]])
    assert evaluate(model, config, data).gap_closed == pytest.approx(0.0)
    decoded = iter([images["gaussian"], images["posterior"]])
    monkeypatch.setattr(module, "evaluate_reconstruction", lambda *_, **__: rebuilt(90.0))
    assert evaluate(model, config, data).gap_closed is None
    images["gaussian"] = images["posterior"].clone()  # the difference would be noise
    images["gaussian"][0] += 1
    monkeypatch.setattr(module, "evaluate_reconstruction", lambda *_, **__: rebuilt(10.0))
    decoded = iter([images["posterior"], images["gaussian"]])
    assert evaluate(model, config, data).gap_closed is None


@pytest.mark.usefixtures("_small_network")
def test_posterior_images_that_are_judged_by_class_are_held_out(config, data, model, monkeypatch):
    """The probe has learned from training images, and finds their class too easily."""
    judged = []

    class Probe(FakeProbe):
        def balanced_accuracy(self, features, _):
            judged.append(features)
            return 0.5

    for each in (module, reconstruction):
        monkeypatch.setattr(each, "features_of", raw_pixels)
    monkeypatch.setattr(module, "logistic_probe", lambda *_, **__: Probe())
    evaluate(model, config, data)
    unseen = data.held_out.stack(selection.judged_images(data))
    z = encode(model, config, unseen, "evaluate held out").z
    assert torch.equal(judged[0], decode(model, z).cpu().float().flatten(1))


class FakeProbe(LogisticProbe):
    def __init__(self):
        pass

    def balanced_accuracy(self, *_):
        return 0.5

    accuracy = balanced_accuracy


@pytest.mark.usefixtures("_small_network")
def test_reconstruction_is_judged_hidden_in_part_and_whole(config, data, model):
    scores, rebuilt = evaluate(model, config, data), evaluate_reconstruction(model, config, data)
    for name, value in dataclasses.asdict(rebuilt).items():
        assert getattr(scores, name) == value, name
    assert rebuilt.psnr != rebuilt.psnr_whole
    assert rebuilt.fd_posterior != rebuilt.fd_whole
    none_hidden = dataclasses.replace(config, mask=MaskRatio(low=0.0, high=0.0))
    alone = evaluate_reconstruction(model, none_hidden, data)
    assert (alone.psnr, alone.fd_posterior) == (rebuilt.psnr_whole, rebuilt.fd_whole)


@pytest.mark.usefixtures("_small_network")
def test_features_of_held_out_images_are_taken_once(config, data, model, monkeypatch):
    taken, features_of = [], reconstruction.features_of
    monkeypatch.setattr(
        reconstruction, "features_of", lambda *each: taken.append(each) or features_of(*each)
    )
    evaluate(model, config, data)
    assert len(taken) == 2  # training images, hidden in part and whole
    evaluate_reconstruction(model, config, data)
    assert len(taken) == 2 + 3


def test_many_held_out_images_are_thinned_evenly(data, monkeypatch):
    assert selection.judged_images(data) == list(range(16))
    monkeypatch.setattr(selection, "_MOST_IMAGES", 4)
    assert selection.judged_images(data) == [0, 5, 10, 15]


def test_encoding_hides_what_its_mask_says(config, data, model):
    pixels = data.train.stack(range(6))
    encoding = encode(model, config, pixels, "test")
    hidden = encoding.masked.sum(dim=1)
    assert 7 <= hidden.min() < hidden.max() <= 10  # of 16 by the law 0.4-0.6, each its own
    assert torch.equal(encode(model, config, pixels, "test").z, encoding.z)
    assert not torch.equal(encode(model, config, pixels, "other").masked, encoding.masked)


def test_images_are_encoded_as_they_are_read_a_batch_at_a_time(config, data, model, monkeypatch):
    class Counted:
        def __init__(self, pixels):
            self.pixels, self.read = pixels, []

        def __len__(self):
            return len(self.pixels)

        def __getitem__(self, index):
            self.read.append(index)
            return self.pixels[index]

    monkeypatch.setattr(reconstruction, "CHUNK", 3)
    pixels = data.train.stack(range(8))
    images, seen, encoder = Counted(pixels), [], model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda *args: (seen.append(len(images.read)), encoder(*args))[1]
    )
    found = encode(model, config, images, "test")
    assert seen == [3, 6, 8]
    assert torch.equal(found.z, encode(model, config, pixels, "test").z)
    assert torch.equal(found.z, encode(model, config, ChosenImages(pixels, range(8)), "test").z)


def test_decoding_in_chunks_equals_decoding_at_once(model, monkeypatch):
    z = torch.randn(7, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = decode(model, z)
    monkeypatch.setattr(reconstruction, "CHUNK", 3)
    assert (decode(model, z).int() - whole.int()).abs().max() <= 1
    assert whole.dtype == torch.uint8


def test_likelihoods_are_computed_a_few_at_a_time(model, monkeypatch):
    encoder = model.config.encoder
    z, label = torch.randn(7, encoder.num_latents, encoder.latent_dim), torch.arange(7) % 3
    whole = module._nll(model, z, label)
    seen = []
    hook = model.flow.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setattr(module, "CHUNK", 3)
    assert module._nll(model, z, label) == pytest.approx(whole, rel=1e-6)
    hook.remove()
    assert seen == [3, 3, 1]


def test_temperature_zero_draws_one_image(config, model):
    draw = torch.Generator().manual_seed(0)
    label = torch.tensor([1, 1])
    guidance = Guidance(scale=config.guidance)
    images = model.generate(label, guidance=guidance, temperature=0.0, generator=draw)
    torch.testing.assert_close(images[0], images[1])
    (pixels,) = generate(model, label, draw, guidance=config.own_guidance, temperature=0.0)
    assert torch.equal(pixels, to_bytes(images))


def test_samples_come_in_batches_with_the_noise_of_all_at_once(config, model, monkeypatch):
    label = torch.arange(7) % 3
    (whole,) = generate(model, label, torch.Generator().manual_seed(0), guidance=None)
    monkeypatch.setattr("mimflow_train.evaluation.sampling.CHUNK", 1)
    batches = [*generate(model, label, torch.Generator().manual_seed(0), guidance=None)]
    assert [len(batch) for batch in batches] == [4, 3]
    # A batch of another size rounds its sums otherwise, and a byte may lie on either side.
    assert (torch.cat(batches).int() - whole.int()).abs().max() <= 1
    assert whole.dtype == torch.uint8


def test_same_classes_repeats_no_image_while_there_are_others(data):
    label = torch.tensor([2, 0, 1, 2, 0, 2])
    chosen = selection.same_classes(data.train, label, 0)
    assert data.train.labels[chosen].tolist() == label.tolist()
    twos = [index for index, wanted in zip(chosen, label.tolist(), strict=True) if wanted == 2]
    assert len(set(twos[:2])) == 2
    assert len({index for index in chosen if index not in twos}) == 3


def test_images_are_chosen_evenly_over_the_classes_that_there_are(data):
    chosen = selection.evenly(data.train, torch.tensor([0, 2, 7]), 12, 0)
    assert data.train.labels[chosen].tolist() == [0] * 4 + [2] * 2
    assert chosen == sorted(set(chosen))


def test_bytes_are_clamped_and_rounded():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 0.999])
    image = values.reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_bytes(image)[0, 0, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_grid_places_images_row_by_row(tmp_path):
    red, blue = torch.zeros(2, 3, 4, 4).to(torch.uint8), torch.zeros(2, 3, 4, 4).to(torch.uint8)
    red[:, 0], blue[:, 2] = 255, 255
    save_grid([red, blue], ["red", "blue"], tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as grid:
        assert grid.size == (96 + 2 * 10, 2 * 10)
        assert grid.getpixel((96 + 10, 1)) == (255, 0, 0)
        assert grid.getpixel((96 + 10, 11)) == (0, 0, 255)


def test_a_grid_that_could_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    image, path = torch.zeros(1, 3, 4, 4).to(torch.uint8), tmp_path / "grid.png"
    save_grid([image], ["one"], path)
    before, save = path.read_bytes(), Image.Image.save

    def torn(self, file, **how):
        save(self, file, **how)
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        save_grid([image + 255, image], ["one", "two"], path)
    assert [each.name for each in tmp_path.iterdir()] == ["grid.png"]
    assert path.read_bytes() == before


def test_long_names_have_room_beside_their_row(tmp_path):
    image = torch.zeros(1, 3, 4, 4).to(torch.uint8)
    for names in (["a", "american_staffordshire_terrier"], ["a", "american_staffordshire"]):
        save_grid([image, image], names, tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as grid:
            label = np.array(grid.convert("L"))[12:, :-10]
        assert grid.width > 110
        assert (label[:, -3:] == 255).all()
        assert (label < 128).any(axis=0).nonzero()[0].max() > label.shape[1] - 12


@pytest.mark.parametrize(("there", "shape"), [(5, (5, 3)), (16, (12, 6)), (40, (12, 6))])
def test_each_held_out_image_is_drawn_once(config, model, tmp_path, there, shape):
    pixels = torch.arange(there).reshape(-1, 1, 1, 1).expand(-1, 3, 16, 16).to(torch.uint8) * 5
    held_out = Split(MemoryImages(pixels), torch.arange(there) % 3)
    data = LabelledImages(held_out, held_out, ("a", "b", "c"))
    reconstruction_grid(model, config, data, tmp_path / "grid.png")
    columns, rows = shape
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (96 + columns * 34, rows * 34)
        places = [(96 + 34 * (i % 12), 102 * (i // 12)) for i in range(min(there, 24))]
        shades = [grid.getpixel(place)[0] for place in places]
    assert len(set(shades)) == min(there, 24)


@pytest.mark.parametrize(("side", "shown"), [(127, 254), (128, 128)])
def test_images_that_are_large_enough_are_shown_as_they_are(side, shown, tmp_path):
    save_grid([torch.zeros(1, 3, side, side).to(torch.uint8)], ["one"], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (96 + shown + 2, shown + 2)


def test_one_class_is_judged_without_a_probe(data, tmp_path, monkeypatch):
    config = override(tiny(("all",), "emoji"), [*SMALL, "loss.perceptual=0.0"])
    split = Split(data.train.images, torch.zeros(16, dtype=torch.int64))
    alone = LabelledImages(split, split, ("all",))
    model = TrainState(config, CPU).ema
    drawn = []

    def recorded(model, label, *rest, **how):
        drawn.append(len(label))
        return generate(model, label, *rest, **how)

    monkeypatch.setattr(module, "generate", recorded)
    scores = evaluate(model, config, alone)
    assert drawn == [16], "none for the probe that there is not"
    assert (scores.class_accuracy, scores.class_accuracy_real, scores.class_chance) == (None,) * 3
    assert scores.fd_flow > 0
    text = summary(scores, None, config, Path("run"), 60.0)
    assert "decoded flow" in text
    assert "class" not in text
    rows, names = sample_rows(model, config, alone)
    assert ([len(row) for row in rows], names) == ([12] * 4, ["all"] * 4)
    assert grid_pixels(config) == 4 * 12 * 16 * 16
    diagnostics = json.loads(
        write_diagnostics(diagnose(model, config, alone), tmp_path).read_text()
    )
    assert diagnostics["probe"] is None
    assert "Linear probes" not in latents_section(diagnostics, ("all",))
