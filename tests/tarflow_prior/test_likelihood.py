from dataclasses import replace

import pytest
import torch
from hypothesis import given
from tests.tarflow_prior.strategies import configured, few, shapes

from tarflow_prior import TarFlow


def assert_near(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@given(shapes())
@few
def test_classify_is_bayes_rule(random_flow, random_batch, shape):
    config = replace(configured(shape), num_classes=5)
    flow = random_flow(config)
    z, _ = random_batch(config, batch=3)
    with torch.no_grad():
        joint = torch.stack([flow.log_prob(z, torch.full((3,), c)) for c in range(5)], dim=1)
    assert_near(flow.classify(z), joint.log_softmax(1))
    assert_near(flow.classify(z, rows=1), joint.log_softmax(1))
    prior = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]).double().log()
    assert_near(flow.classify(z, log_prior=prior), (joint + prior).log_softmax(1))
    assert_near(flow.classify(z).exp().sum(1), torch.ones(3).double())


def test_blocks_without_classes_run_once(config, random_flow, random_batch):
    flow = random_flow(replace(config, conditioning="last"))
    z, _ = random_batch(config)
    rows = []
    for block in flow.blocks:
        block.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    flow.classify(z)
    assert rows == [2, 2, 8]


def test_classify_without_classes_is_refused(config, random_flow, random_batch):
    flow = random_flow(replace(config, num_classes=0))
    with pytest.raises(ValueError, match="Expected a flow with classes"):
        flow.classify(random_batch(flow.config)[0])


def test_score_is_the_gradient_of_log_prob(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    step = 1e-5 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        change = flow.log_prob(z + step, label) - flow.log_prob(z - step, label)
    assert_near((flow.score(z, label) * 2 * step).sum((1, 2)), change, atol=1e-8)
    with torch.inference_mode():
        assert_near(flow.score(z.clone(), label.clone()), flow.score(z, label))


def test_denoise_at_initialisation_is_the_wiener_filter(config):
    # The fresh flow is N(0, I): as the marginal of noisy data of variance 1, its clean mean is
    # (1 - sigma^2) z.
    flow = TarFlow(config).double()
    z = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_near(flow.denoise(z, sigma=0.6), (1 - 0.36) * z)


def test_contrast_is_tweedie_given_the_class_minus_the_null_class(
    config, random_flow, random_batch
):
    flow = random_flow(config)
    z, label = random_batch(config)
    contrast = flow.denoise(z, label, sigma=0.3, rule="contrast")
    difference = flow.denoise(z, label, sigma=0.3) - flow.denoise(z, sigma=0.3)
    assert_near(contrast, z + difference)
    assert difference.abs().max() > 1e-3


def test_contrast_without_labels_is_refused(config, random_flow, random_batch):
    z, _ = random_batch(config)
    with pytest.raises(ValueError, match="Expected labels with rule='contrast'"):
        random_flow(config).denoise(z, sigma=0.3, rule="contrast")


def test_prior_must_have_an_entry_for_each_class(config, random_flow, random_batch):
    z, _ = random_batch(config)
    with pytest.raises(ValueError, match=r"one log_prior for each of 4 classes; got shape \(1,\)"):
        random_flow(config).classify(z, log_prior=torch.zeros(1))


def test_sigma_may_follow_the_labels_and_must_be_given(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    assert torch.equal(flow.denoise(z, label, 0.3), flow.denoise(z, label, sigma=0.3))
    with pytest.raises(ValueError, match="Expected sigma of at least 0; got nan"):
        flow.denoise(z, label)


@pytest.mark.parametrize("sigma", [-0.1, float("nan")])
def test_negative_sigma_is_refused(config, random_flow, random_batch, sigma):
    z, label = random_batch(config)
    with pytest.raises(ValueError, match="Expected sigma of at least 0"):
        random_flow(config).denoise(z, label, sigma=sigma)


def test_scores_and_denoised_tokens_are_without_gradients(config, random_flow, random_batch):
    z, label = random_batch(config)
    z.requires_grad_()
    assert not random_flow(config).score(z, label).requires_grad
    assert not random_flow(config).denoise(z, label, sigma=0.3).requires_grad
