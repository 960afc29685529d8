import math

import pytest
import torch

from mimflow_train.config import LossConfig
from mimflow_train.data.images import to_unit
from mimflow_train.draws import draw_step
from mimflow_train.frozen.teacher import FeatureTarget, square_distance
from mimflow_train.model import MIMFlow
from mimflow_train.objective import (
    feature_loss,
    joint_objective,
    nll_floor,
    pixel_loss,
    reconstruction_objective,
)


@pytest.fixture
def output_and_image(config, data):
    torch.manual_seed(0)
    image = to_unit(data.train.stack(range(8)))
    draws = draw_step(config, 0, slice(0, 8))
    return MIMFlow(config.model)(image, data.train.labels[:8], draws.masked, draws.noise), image


def test_nll_term_is_log_prob_without_its_constant(config, data):
    torch.manual_seed(0)
    model = MIMFlow(config.model)
    for parameter in model.flow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    image = to_unit(data.train.stack(range(8)))
    draws, label = draw_step(config, 0, slice(0, 8)), data.train.labels[:8]
    output = model(image, label, draws.masked, draws.noise)
    weights = LossConfig(pixel=0.0)
    terms = joint_objective(
        output, image, draws.masked, weights=weights, targets={}, perceptual=None
    ).terms
    z = output.posterior.perturb(draws.noise)
    per_dim = -model.flow.log_prob(z, label).mean() / (4 * 6) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(terms["nll"], per_dim, atol=1e-5, rtol=0)


def test_total_is_the_weighted_sum_of_the_terms(config, output_and_image):
    output, image = output_and_image
    masked = draw_step(config, 0, slice(0, 8)).masked
    output = output._replace(features={"net": torch.randn(8, 16, 5)})
    objective = joint_objective(
        output,
        image,
        masked,
        weights=LossConfig(nll=2.0, pixel=3.0, perceptual=5.0, feature=7.0),
        targets={"net": FeatureTarget(torch.randn(8, 16, 5), square_distance)},
        perceptual=lambda rebuilt: (rebuilt - image).abs().mean(),
    )
    terms = objective.terms
    expected = 2 * terms["nll"] + 3 * terms["pixel"] + 5 * terms["perceptual"] + 7 * terms["net"]
    torch.testing.assert_close(objective.total, expected)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert terms["net"] > 1.5, "the teacher's own distance, not a cosine"


def test_perceptual_term_is_absent_without_a_network(config, output_and_image):
    output, image = output_and_image
    masked = draw_step(config, 0, slice(0, 8)).masked
    terms = joint_objective(
        output, image, masked, weights=LossConfig(), targets={}, perceptual=None
    ).terms
    assert set(terms) == {"nll", "pixel"}


def test_pixel_loss_is_on_the_unit_range():
    a, b = torch.full((2, 3, 4, 4), -1.0), torch.full((2, 3, 4, 4), 0.0)
    assert pixel_loss(a, b, torch.zeros(2, 4).bool()).item() == pytest.approx(0.25)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 5.0, 10.0])
def test_hidden_pixels_weigh_as_they_are_told(weight):
    image = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))[:, :, :, :4]
    target = torch.zeros_like(image)
    masked = torch.tensor([[True, False, False, False], [False, True, True, False]])
    errors = (image / 2).square().mean(1)
    hidden = masked.reshape(2, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    factors = torch.where(hidden, weight, 1.0)
    wanted = [(each * f).sum() / f.sum() for each, f in zip(errors, factors, strict=True)]
    torch.testing.assert_close(pixel_loss(image, target, masked, weight), sum(wanted) / 2)


def test_weight_of_hidden_pixels_cancels_where_all_are_hidden():
    image, target = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(2, 4).bool()
    plain = pixel_loss(image, target, torch.zeros(2, 4).bool())
    for weight in (1.0, 5.0):
        torch.testing.assert_close(pixel_loss(image, target, everything, weight), plain)


def test_both_objectives_weigh_hidden_pixels(config, output_and_image):
    output, image = output_and_image
    masked = draw_step(config, 0, slice(0, 8)).masked
    weights = LossConfig(hidden_pixels=5.0)
    wanted = pixel_loss(output.image, image, masked, 5.0)
    assert wanted != pixel_loss(output.image, image, masked)
    joint = joint_objective(output, image, masked, weights=weights, targets={}, perceptual=None)
    second = reconstruction_objective(
        output.image, image, masked, weights=weights, perceptual=lambda *_: torch.tensor(0.5)
    )
    assert joint.terms["pixel"] == second.terms["pixel"] == wanted
    torch.testing.assert_close(second.total, wanted + 1.1 * 0.5)


def test_feature_loss_looks_at_hidden_patches_only():
    torch.manual_seed(0)
    features, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    masked = torch.tensor([[True, False, False, True, False], [False, True, False, False, False]])
    before = feature_loss(features, target, masked)
    features[~masked] = torch.randn(7, 3)
    assert torch.equal(before, feature_loss(features, target, masked))


def test_feature_loss_of_a_batch_is_the_mean_of_its_parts_however_much_of_each_image_is_hidden():
    draw = torch.Generator().manual_seed(0)
    features, target = torch.randn(2, 4, 9, 6, generator=draw)
    masked = torch.arange(9) < torch.tensor([[0], [1], [5], [8]])
    parts = [
        feature_loss(features[rows], target[rows], masked[rows])
        for rows in (slice(0, 1), slice(1, 2), slice(2, 4), slice(2, 4))
    ]
    torch.testing.assert_close(feature_loss(features, target, masked), sum(parts) / 4)


def test_feature_loss_of_nothing_hidden_is_over_all_patches():
    features, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    everywhere = torch.ones(2, 5, dtype=torch.bool)
    whole = feature_loss(features, target, everywhere)
    assert torch.equal(feature_loss(features, target, ~everywhere), whole)


def test_floor_is_the_noise_entropy():
    sigma = 0.3
    entropy = torch.distributions.Normal(0.0, sigma).entropy().item()
    assert nll_floor(sigma) == pytest.approx(entropy - 0.5 * math.log(2 * math.pi))
