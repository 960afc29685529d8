import dataclasses

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mim_encoder import TrunkConfig, ViTTrunk


def rotate(heads_bhtd, trunk, layer, grid):
    """Turn pair j of image token (row, column) by ``column * fx_j + row * fy_j``."""
    fx, fy = trunk.rope.freqs[:, layer].double()
    rows, columns = grid
    places = [(row, column) for row in range(rows) for column in range(columns)]
    angle = torch.stack([column * fx + row * fy for row, column in places], dim=1)
    pairs = torch.view_as_complex(rearrange(heads_bhtd, "b h t (j two) -> b h t j two", two=2))
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return rearrange(torch.view_as_real(turned), "b h t j two -> b h t (j two)")


def reference(trunk, prefix, image, grid):
    """The trunk written out with complex rotations and explicit attention weights."""
    x, skip = torch.cat([prefix, image], dim=1), prefix.shape[1]
    for layer, block in enumerate(trunk.blocks):
        attn = block.attn
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        qkv = functional.linear(block.norm1(x), attn.qkv.weight, bias)
        q, k, v = rearrange(
            qkv, "b t (three h d) -> three b h t d", three=3, h=trunk.config.num_heads
        )
        q, k = (
            torch.cat([u[:, :, :skip], rotate(u[:, :, skip:], trunk, layer, grid)], dim=2)
            for u in (q, k)
        )
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
        mixed = attn.proj(rearrange(weights @ v, "b h t d -> b t (h d)"))
        x = x + (mixed if block.gamma_1 is None else block.gamma_1 * mixed)
        hidden = block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
        x = x + (hidden if block.gamma_2 is None else block.gamma_2 * hidden)
    x = functional.layer_norm(x, x.shape[-1:], trunk.norm.weight, trunk.norm.bias, eps=1e-6)
    return x[:, :skip], x[:, skip:]


def build(config):
    torch.manual_seed(0)
    trunk = ViTTrunk(config).double()
    for parameter in trunk.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return trunk


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    num_heads=st.integers(1, 3),
    num_prefix=st.integers(0, 3),
    layer_scale=st.sampled_from([None, 0.5]),
)
def test_trunk_equals_the_written_out_reference(rows, columns, num_heads, num_prefix, layer_scale):
    trunk = build(
        TrunkConfig(
            width=8 * num_heads,
            depth=2,
            num_heads=num_heads,
            num_prefix=num_prefix,
            layer_scale=layer_scale,
        )
    )
    prefix = torch.randn(2, num_prefix, 8 * num_heads, dtype=torch.float64)
    image = torch.randn(2, rows * columns, 8 * num_heads, dtype=torch.float64)
    got = trunk(prefix, image, (rows, columns))
    for ours, expected in zip(got, reference(trunk, prefix, image, (rows, columns)), strict=True):
        assert ours.dtype == torch.float64
        # timm computes the angles in float32.
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


def test_image_tokens_can_come_in_any_order_if_their_places_are_told():
    trunk = build(TrunkConfig(width=16, depth=2, num_heads=2, num_prefix=1))
    prefix, image = torch.randn(2, 1, 16).double(), torch.randn(2, 6, 16).double()
    places = torch.stack([torch.tensor([3, 0, 5, 1, 4, 2]), torch.arange(6)])
    shuffled = image.take_along_dim(places[..., None], dim=1)
    first, second = trunk(prefix, image, (2, 3)), trunk(prefix, shuffled, (2, 3), places)
    torch.testing.assert_close(second[0], first[0], rtol=0, atol=1e-9)
    expected = first[1].take_along_dim(places[..., None], dim=1)
    torch.testing.assert_close(second[1], expected, rtol=0, atol=1e-9)


def test_rotary_frequencies_start_at_the_paper_of_mixed_rope():
    trunk = ViTTrunk(TrunkConfig(width=32, depth=3, num_heads=2, num_prefix=0, rope_theta=10.0))
    fx, fy = trunk.rope.freqs
    assert fx.shape == (3, 2, 8)
    magnitude = 10.0 ** (-torch.arange(0, 16, 4) / 16)
    expected = magnitude.repeat(2).expand(3, 2, 8)
    torch.testing.assert_close((fx.square() + fy.square()).sqrt(), expected)


def test_layer_scale_starts_at_its_value_and_is_absent_when_none():
    shape = {"width": 8, "depth": 1, "num_heads": 1, "num_prefix": 0}
    scaled = ViTTrunk(TrunkConfig(**shape, layer_scale=1e-5))
    assert (scaled.blocks[0].gamma_1 == 1e-5).all()
    assert (scaled.blocks[0].gamma_2 == 1e-5).all()
    names = [name for name, _ in ViTTrunk(TrunkConfig(**shape)).named_parameters()]
    assert not [name for name in names if "gamma" in name]


DROPPED = TrunkConfig(width=8, depth=3, num_heads=1, num_prefix=1, layer_scale=0.5, drop_path=0.8)
TOKENS = torch.randn(5, 1, 8), torch.randn(5, 6, 8)


def test_without_draws_no_branch_is_skipped():
    trunk = ViTTrunk(DROPPED)
    whole = ViTTrunk(dataclasses.replace(DROPPED, drop_path=0.0))
    whole.load_state_dict(trunk.state_dict())
    assert torch.equal(trunk.train()(*TOKENS, (2, 3))[1], whole(*TOKENS, (2, 3))[1])


@pytest.mark.parametrize("branch", [0, 1])
def test_a_branch_is_skipped_or_enlarged_as_its_draw_says(branch):
    trunk = ViTTrunk(DROPPED).double()
    tokens = [each.double() for each in TOKENS]
    uniform = torch.full((5, 3, 2), 0.9, dtype=torch.float64)
    enlarged = trunk(*tokens, (2, 3), uniform=uniform)[1]
    uniform[3, 2, branch] = 0.7  # below 0.8, the last block's share
    uniform[:, 1] = 0.5  # above 0.4, the second block's
    uniform[:, 0] = 0.0  # the first block has none
    skipped = trunk(*tokens, (2, 3), uniform=uniform)[1]
    for block, share in zip(trunk.blocks, (0.0, 0.4, 0.8), strict=True):
        block.gamma_1.data /= 1 - share
        block.gamma_2.data /= 1 - share
    expected = trunk(*tokens, (2, 3))[1]
    torch.testing.assert_close(enlarged, expected)
    torch.testing.assert_close(skipped[[0, 1, 2, 4]], expected[[0, 1, 2, 4]])
    getattr(trunk.blocks[2], f"gamma_{branch + 1}").data.zero_()
    torch.testing.assert_close(skipped[3], trunk(*tokens, (2, 3))[1][3])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_last_block_is_skipped_with_the_given_probability_at_any_depth(depth):
    trunk = ViTTrunk(dataclasses.replace(DROPPED, depth=depth))
    below, above = torch.ones(2, 5, depth, 2)
    below[:, -1], above[:, -1] = 0.79, 0.81
    skipped = trunk(*TOKENS, (2, 3), uniform=below)[1]
    assert not torch.equal(trunk(*TOKENS, (2, 3), uniform=above)[1], skipped)
    for branch in (trunk.blocks[-1].gamma_1, trunk.blocks[-1].gamma_2):
        branch.data.zero_()
    assert torch.equal(trunk(*TOKENS, (2, 3), uniform=above)[1], skipped)


@pytest.mark.parametrize(("width", "deviation"), [(768, 0.02), (192, 0.04)])
def test_linear_weights_start_as_wide_as_the_width_asks_and_without_bias(width, deviation):
    trunk = ViTTrunk(TrunkConfig(width=width, depth=1, num_heads=1, num_prefix=0))
    assert abs(trunk.blocks[0].mlp.fc1.weight.std().item() - deviation) < 0.001
    assert not trunk.blocks[0].mlp.fc1.bias.any()
