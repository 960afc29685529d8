import pytest
import torch
from hypothesis import given, settings
from tests.tarflow_prior.strategies import configured, few, shapes
from torch.autograd import gradcheck
from torch.distributions import (
    AffineTransform,
    Distribution,
    Independent,
    TransformedDistribution,
    constraints,
)

from tarflow_prior import TarFlowConfig
from tarflow_prior.implicit import reparameterized_inverse


def assert_near(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@given(shapes(max_tokens=4))
@settings(few, max_examples=5)
def test_rsample_has_the_gradient_of_the_inverse(random_flow, random_batch, shape):
    config = configured(shape)
    flow = random_flow(config)
    u, label = random_batch(config)
    names = [f"blocks.{len(flow.blocks) - 1}.head.bias", "blocks.0.layers.0.mlp_norm.bias"]
    parameters = [dict(flow.named_parameters())[name] for name in names]

    def samples(u, *_):
        return reparameterized_inverse(flow.blocks, u, label)

    assert torch.equal(samples(u).detach(), flow.inverse(u, label))
    inputs = (u.clone().requires_grad_(), *parameters)
    # The fast mode compares one random direction instead of every entry.
    assert gradcheck(samples, inputs, atol=1e-5, check_undefined_grad=False, fast_mode=True)


def test_shapes_follow_label_and_sample_shape(config, random_flow):
    flow = random_flow(config)
    density = flow.conditional(torch.tensor([[0, 1, -1], [2, 3, 3]]))
    assert (density.batch_shape, density.event_shape) == ((2, 3), (5, 3))
    assert density.has_rsample
    assert density.support.event_dim == 2
    z = density.sample((4,))
    assert z.shape == (4, 2, 3, 5, 3)
    assert not z.requires_grad
    assert density.rsample((4,)).requires_grad
    assert density.log_prob(z).shape == (4, 2, 3)
    assert density.log_prob(z[0, 0, 0]).shape == (2, 3)
    null = flow.conditional()
    assert null.sample().shape == (5, 3)
    assert null.expand((2,)).sample((4,)).shape == (4, 2, 5, 3)
    assert density.expand((7, 2, 3)).batch_shape == (7, 2, 3)


@pytest.mark.parametrize(("num_labels", "draws"), [(2, (0,)), (0, ()), (0, (3,))])
def test_no_draws_are_no_samples_that_may_be_differentiated(config, random_flow, num_labels, draws):
    flow = random_flow(config)
    density = flow.conditional(torch.zeros(num_labels, dtype=torch.long))
    assert density.sample(draws).shape == (*draws, num_labels, 5, 3)
    z = density.rsample(draws)
    assert z.shape == (*draws, num_labels, 5, 3)
    z.sum().backward()
    assert not flow.blocks[0].head.weight.grad.any()


def test_log_prob_is_that_of_the_flow_row_by_row(config, random_flow, random_batch):
    flow = random_flow(config)
    z, _ = random_batch(config, batch=3)
    labels = torch.tensor([3, -1, 0])
    together = flow.conditional(labels).log_prob(z)
    for row in range(3):
        alone = flow.conditional(labels[row]).log_prob(z[row])
        assert_near(together[row], alone)
        assert_near(alone, flow.log_prob(z[row : row + 1], labels[row : row + 1])[0])


def test_flow_sits_in_independent_and_transformed_distribution(config, random_flow):
    flow = random_flow(config)
    base = flow.conditional(torch.tensor([0, 2]))
    scaled = TransformedDistribution(base, [AffineTransform(1.0, 2.0)])
    z = scaled.rsample((3,))
    assert z.shape == (3, 2, 5, 3)
    jacobian = 15 * torch.log(torch.tensor(2.0, dtype=torch.float64))
    assert_near(scaled.log_prob(z), base.log_prob((z - 1) / 2) - jacobian)
    joint = Independent(base, 1)
    assert (joint.batch_shape, joint.event_shape) == ((), (2, 5, 3))
    assert_near(joint.log_prob(z), base.log_prob(z).sum(-1))


def test_samples_have_the_density_that_log_prob_claims(random_flow):
    # E_q[p / q] = 1 for any normalised p and samples of q; p is a standard Gaussian here.
    flow = random_flow(
        TarFlowConfig(num_tokens=2, token_dim=1, width=8, head_dim=4, depths=(1, 1)), head_std=0.05
    )
    torch.manual_seed(0)
    density = flow.conditional()
    z = density.sample((20_000,))
    target = torch.distributions.Normal(0.0, 0.6).log_prob(z).sum((-2, -1))
    ratio = (target - density.log_prob(z)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 20_000**0.5
    assert ratio.std() > 0.05


def test_frozen_flow_has_samples_without_gradients(config, random_flow):
    flow = random_flow(config).requires_grad_(False)
    assert not flow.conditional().rsample((2,)).requires_grad


def test_second_derivative_of_a_sample_is_refused(config, random_flow):
    flow = random_flow(config)
    z = flow.conditional().rsample((2,))
    with pytest.raises(RuntimeError, match="Expected a first derivative of rsample"):
        torch.autograd.grad(z.sum(), list(flow.parameters()), create_graph=True)


def test_half_precision_flow_has_no_samples(config, random_flow):
    with pytest.raises(ValueError, match=r"float32 or float64 weights; got torch\.float16"):
        random_flow(config).half().conditional().rsample()


def test_values_outside_the_support_are_refused(config, random_flow, monkeypatch):
    # torch's default; but the first torch.compile switches it off for the whole process.
    monkeypatch.setattr(Distribution, "_validate_args", True)
    density = random_flow(config).conditional(torch.tensor([0, 2]))
    z = torch.zeros(2, 5, 3, dtype=torch.float64)
    z[1, 4, 2] = float("nan")
    with pytest.raises(ValueError, match="support"):
        density.log_prob(z)
    with pytest.raises(ValueError, match=r"labels in 0\.\.3.*got 4"):
        random_flow(config).conditional(torch.tensor([[4]]))
    with pytest.raises(NotImplementedError):
        _ = density.mean
    assert constraints.is_dependent(density.support) is False


def test_gradient_of_a_sample_lowers_a_loss(config, random_flow):
    flow = random_flow(config)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        torch.manual_seed(0)
        loss = flow.conditional(torch.tensor([0, 1])).rsample((4,)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
