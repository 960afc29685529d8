import math

import pytest
import torch

from mimflow_train.config import LossConfig
from mimflow_train.data.images import to_unit
from mimflow_train.draws import draw_step
from mimflow_train.frozen.teacher import FeatureTarget, square_distance
from mimflow_train.model import MIMFlow
from mimflow_train.objective import feature_loss, joint_objective, nll_floor, pixel_loss


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
        perceptual=lambda a, b: (a - b).abs().mean(),
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
    assert pixel_loss(a, b).item() == pytest.approx(0.25)


def test_feature_loss_looks_at_hidden_patches_only():
    torch.manual_seed(0)
    features, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    masked = torch.tensor([[True, False, False, True, False], [False] * 5])
    before = feature_loss(features, target, masked)
    features[~masked] = torch.randn(8, 3)
    assert torch.equal(before, feature_loss(features, target, masked))


def test_feature_loss_of_nothing_hidden_is_zero_with_finite_gradient():
    features = torch.randn(2, 5, 3, requires_grad=True)
    loss = feature_loss(features, torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(features.grad).all()


def test_floor_is_the_noise_entropy():
    sigma = 0.3
    entropy = torch.distributions.Normal(0.0, sigma).entropy().item()
    assert nll_floor(sigma) == pytest.approx(entropy - 0.5 * math.log(2 * math.pi))
