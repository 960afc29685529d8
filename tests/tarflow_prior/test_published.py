"""Weights of TarFlow's own layout, held against its algorithm written once more, in float64."""

import pytest
import torch
from tests.tarflow_prior.published import DIM, HEAD_DIM, TOKENS, WIDTH, Published, weights_of

from tarflow_prior import Guidance, TarFlow


@pytest.mark.parametrize("depths", [(2,), (1, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("num_classes", [0, 4])
def test_both_directions_are_those_of_the_published_algorithm(depths, num_classes):
    weights = weights_of(depths, num_classes)
    before = {name: weight.clone() for name, weight in weights.items()}
    flow, published = TarFlow.from_published(weights, head_dim=HEAD_DIM), Published(weights, depths)
    assert flow.config.depths == depths
    assert flow.config.num_classes == num_classes
    z = torch.randn(3, TOKENS, DIM, dtype=torch.float64)
    label = torch.tensor([0, 3, 1]) if num_classes else None
    u, log_det = flow(z, label)
    wanted, wanted_log_det = published.forward(z, label)
    torch.testing.assert_close(u, wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det, wanted_log_det, atol=1e-9, rtol=0)

    temperature = 1.0 if num_classes else 1.5
    guided = {"interval": (0.0, 1.0), "blocks": "all", "attention_temperature": temperature}
    decoded = flow.inverse(z, label, guidance=Guidance(0.3, **guided))
    wanted = published.reverse(z, label, 0.3, temperature)
    torch.testing.assert_close(decoded, wanted, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    assert all(torch.equal(weights[name], weight) for name, weight in before.items())


def test_weights_may_be_wrapped_and_halved_and_come_without_buffers():
    weights = weights_of((1, 1), dtype=torch.float16)
    flow = TarFlow.from_published(weights, head_dim=HEAD_DIM)
    wrapped = {
        f"module.{name.replace('blocks.1.', 'blocks.1._orig_mod.')}": weight
        if "proj_in" in name
        else weight.double()
        for name, weight in weights.items()
        if name != "var" and "mask" not in name
    }
    other = TarFlow.from_published(wrapped | {"n_averaged": torch.ones(1)}, head_dim=HEAD_DIM)
    assert flow.dtype == other.dtype == torch.float32
    assert torch.equal(flow.blocks[1].positions, weights["blocks.1.pos_embed"].float())
    assert all(parameter.requires_grad for parameter in flow.parameters())
    for name, weight in flow.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


def without(weights, name):
    return {each: weight for each, weight in weights.items() if each != name}


REFUSED = {
    "nothing of it": (
        lambda _: {"encoder.weight": torch.ones(2)},
        r"Expected weights by TarFlow's names, blocks\.0\.proj_in\.weight among them; got encoder",
    ),
    "two models": (
        lambda weights: {
            f"{of}.{name}": weights[name] for of in ("ema", "raw") for name in weights
        },
        r"Expected the weights of one flow; got those of 'ema\.' and 'raw\.'",
    ),
    "a weight too few": (
        lambda weights: without(weights, "blocks.1.attn_blocks.0.mlp.main.2.bias"),
        r"Expected blocks\.1\.attn_blocks\.0\.mlp\.main\.2\.bias of shape \(8,\); got none",
    ),
    "no positions": (
        lambda weights: without(weights, "blocks.0.pos_embed"),
        r"Expected blocks\.0\.pos_embed with 2 axes; got none\. Give all weights of one TarFlow",
    ),
    "arrays of another library": (
        lambda weights: weights | {"blocks.0.proj_in.weight": weights["var"].numpy()},
        r"Expected blocks\.0\.proj_in\.weight with 2 axes; got ndarray\. .* as tensors",
    ),
    "another number of axes": (
        lambda weights: weights | {"blocks.0.proj_in.weight": torch.ones(3)},
        r"Expected blocks\.0\.proj_in\.weight with 2 axes; got \(3,\)",
    ),
    "a block by another name": (
        lambda weights: weights | {"blocks.x.attn_blocks.0.attention.qkv.bias": torch.ones(3)},
        r"got blocks\.x\.attn_blocks\.0\.attention\.qkv\.bias too, which it has not",
    ),
    "a weight too many": (
        lambda weights: weights | {"blocks.0.sos": torch.ones(2)},
        r"a TarFlow of 2 blocks and 0 classes; got blocks\.0\.sos too, which it has not",
    ),
    "another shape": (
        lambda weights: weights | {"blocks.1.pos_embed": torch.ones(4, WIDTH)},
        r"Expected blocks\.1\.pos_embed of shape \(5, 8\); got \(4, 8\)",
    ),
    "no scale": (
        lambda weights: (
            weights
            | {f"blocks.0.proj_out.{name}": torch.ones(DIM, *rest) for name, rest in SHIFTS.items()}
        ),
        r"Expected blocks\.0\.proj_out\.weight of shape \(6, 8\); got \(3, 8\)",
    ),
    "a prior of its own": (
        lambda weights: weights | {"var": torch.full((TOKENS, DIM), 2.0)},
        r"Expected var to be 1, the prior N\(0, I\); got values up to 2",
    ),
    "a value that is not finite": (
        lambda weights: weights | {"blocks.0.pos_embed": torch.full((TOKENS, WIDTH), torch.inf)},
        r"finite weights to load; got non-finite entries in blocks\.0\.pos_embed",
    ),
}
SHIFTS = {"weight": (WIDTH,), "bias": ()}


@pytest.mark.parametrize("name", REFUSED)
def test_other_weights_are_refused_by_name(name):
    change, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        TarFlow.from_published(change(weights_of((1, 1))), head_dim=HEAD_DIM)


def test_heads_must_fit():
    with pytest.raises(ValueError, match="width divisible by head_dim=64"):
        TarFlow.from_published(weights_of((1, 1)))


def test_hidden_width_is_that_of_the_weights():
    weights = weights_of((1, 2), mlp_ratio=2)
    flow, published = TarFlow.from_published(weights, head_dim=HEAD_DIM), Published(weights, (1, 2))
    z = torch.randn(3, TOKENS, DIM, dtype=torch.float64)
    torch.testing.assert_close(flow(z).u, published.forward(z, None)[0], atol=1e-9, rtol=0)
