from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from tarflow_prior import Decoder, Guidance, TarFlow
from tarflow_prior.affine import Affine, guide


def random_affine(seed: int) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    return Affine(*torch.randn(2, 5, 1, 3, generator=generator, dtype=torch.float64))


def decode(flow, u, label, guidance=None):
    return flow.inverse(u, label, guidance=guidance)


@pytest.fixture
def flow(config, random_flow) -> TarFlow:
    return random_flow(config)


@pytest.fixture
def u(config, random_batch):
    return random_batch(config, batch=3)[0]


LABEL = torch.tensor([0, 3, 2])


@pytest.mark.parametrize("rule", ["tarflow", "starflow"])
@pytest.mark.parametrize(
    "idle",
    [
        Guidance(0.0, interval=(0.0, 1.0), blocks="all"),
        Guidance(2.0, interval=(0.0, 0.1)),
        Guidance(0.0, attention_temperature=2.0),
    ],
    ids=["scale-0", "empty-interval", "hot"],
)
def test_idle_guidance_is_unguided_bit_for_bit(flow, u, idle, rule):
    rows = set()
    flow.blocks[-1].project_in.register_forward_hook(lambda _, inputs, h: rows.add(len(h)))
    guided = decode(flow, u, LABEL, replace(idle, rule=rule))
    assert torch.equal(guided, decode(flow, u, LABEL))
    assert rows == {3}, "no null branch is computed"


@pytest.mark.parametrize("rule", ["tarflow", "starflow"])
@pytest.mark.parametrize("ramp", ["linear", "constant"])
def test_tokens_before_the_interval_are_unguided(config, random_flow, u, rule, ramp):
    flow = random_flow(replace(config, depths=(2,)))
    guidance = Guidance(2.0, rule=rule, ramp=ramp, interval=(0.75, 1.0))  # ranks 3 and 4
    guided, unguided = decode(flow, u, LABEL, guidance), decode(flow, u, LABEL)
    torch.testing.assert_close(guided[:, :3], unguided[:, :3], atol=1e-12, rtol=0)
    assert (guided[:, 3] - unguided[:, 3]).abs().min() > 1e-6


def test_interval_is_closed_at_both_ends():
    guidance = Guidance(2.0, ramp="constant", interval=(0.25, 0.75))
    fractions = [0.2499, 0.25, 0.5, 0.75, 0.7501]
    assert [guidance.strength(fraction) for fraction in fractions] == [0, 2, 2, 2, 0]


@pytest.mark.parametrize("label", [None, torch.tensor([-1, -1, -1])], ids=["none", "minus-one"])
def test_guidance_towards_the_null_class_is_unguided(flow, u, label):
    guided = decode(flow, u, label, Guidance(2.0, blocks="all"))
    torch.testing.assert_close(guided, decode(flow, u, None), atol=1e-12, rtol=0)


def test_last_guides_the_deep_block_only(config, flow, u):
    guidance = Guidance(2.0)
    deep = Decoder(flow.blocks[-1:], 3, guidance=guidance).decode(u, LABEL)[0]
    *_, before_deep, _ = flow.iter_states(decode(flow, u, LABEL, guidance), LABEL)
    torch.testing.assert_close(before_deep.u, deep, atol=1e-9, rtol=0)
    everywhere = decode(flow, u, LABEL, replace(guidance, blocks="all"))
    assert (everywhere - decode(flow, u, LABEL, guidance)).abs().max() > 1e-3


def test_linear_ramp_runs_from_w_over_k_minus_1_to_w(config, random_flow, u):
    flow = random_flow(replace(config, depths=(1,), token_dim=3))
    linear = Guidance(2.0, interval=(0.0, 1.0))
    ramped = decode(flow, u, LABEL, linear)
    first = decode(flow, u, LABEL, Guidance(0.5, ramp="constant", interval=(0.0, 1.0)))
    torch.testing.assert_close(ramped[:, 1], first[:, 1], atol=1e-12, rtol=0)  # w / 4 at rank 1
    assert linear.strength(1.0) == 2.0


def test_tarflow_rule_extrapolates_shift_and_log_scale():
    conditional, null = random_affine(0), random_affine(1)
    guided = guide("tarflow", conditional, null, torch.full((1, 1), 1.5))
    torch.testing.assert_close(guided.shift, 2.5 * conditional.shift - 1.5 * null.shift)
    torch.testing.assert_close(guided.log_scale, 2.5 * conditional.log_scale - 1.5 * null.log_scale)


def test_starflow_rule_is_the_gaussian_product_where_the_class_is_narrower():
    weight = 1.7
    conditional, null = random_affine(0), random_affine(1)
    conditional = conditional._replace(
        log_scale=torch.minimum(conditional.log_scale, null.log_scale)
    )
    guided = guide("starflow", conditional, null, torch.tensor([[weight]], dtype=torch.float64))

    def log_density(affine, x):
        return Normal(affine.shift, affine.log_scale.exp()).log_prob(x)

    def excess(x):  # constant in x if the guided density is p_c^(1+w) / p_u^w up to its norm
        product = (1 + weight) * log_density(conditional, x) - weight * log_density(null, x)
        return log_density(guided, x) - product

    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(5, 1, 1, 1)
    torch.testing.assert_close(excess(x), excess(torch.zeros_like(x)), atol=1e-9, rtol=0)


def test_starflow_rule_never_widens_and_keeps_equal_gaussians():
    conditional, null = random_affine(0), random_affine(1)
    weight = torch.tensor([[5.0]])
    guided = guide("starflow", conditional, null, weight)
    assert (guided.log_scale <= conditional.log_scale).all()
    wider = conditional.log_scale > null.log_scale
    assert wider.any()
    assert torch.equal(guided.log_scale[wider], conditional.log_scale[wider])
    unchanged = guide("starflow", conditional, conditional, weight)
    assert torch.equal(unchanged.shift, conditional.shift)
    assert torch.equal(unchanged.log_scale, conditional.log_scale)
