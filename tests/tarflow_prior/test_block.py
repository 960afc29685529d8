import math
from dataclasses import replace

import pytest
import torch
from torch.autograd.functional import jacobian

from tarflow_prior import Block


@pytest.fixture(params=[0, 1, 2], ids=["block-0", "block-1-flipped", "block-2"])
def block(request, config, random_flow) -> Block:
    return random_flow(config).blocks[request.param]


def test_block_jacobian_is_triangular_in_decoding_order(block, config, random_batch):
    z, label = random_batch(config)
    k, d = config.num_tokens, config.token_dim
    matrix = jacobian(lambda tokens: block(tokens[None], label[1:])[0][0], z[1])
    if block.flipped:
        matrix = matrix.flip(0, 2)
    for row in range(k):
        assert (matrix[row, :, row + 1 :] == 0).all()
        own = matrix[row, :, row]
        assert torch.equal(own, own.diag().diag())
        assert (own.diag() > 0).all()
    assert torch.equal(matrix[0, :, 0], torch.eye(d, dtype=z.dtype))
    below = matrix.diagonal(offset=-1, dim1=0, dim2=2)
    assert (below != 0).all(), "every token must depend on the one before it"


def test_changing_a_token_leaves_those_before_it_in_decoding_order(block, config, random_batch):
    z, label = random_batch(config)
    changed = z.clone()
    changed[:, 2] += 1
    before = slice(3, None) if block.flipped else slice(0, 2)
    after = slice(0, 3) if block.flipped else slice(2, None)
    moved = block(changed, label).u - block(z, label).u
    assert (moved[:, before] == 0).all()
    assert (moved[:, after] != 0).all()


def test_positions_belong_to_the_original_token(block, config, random_batch):
    z, label = random_batch(config)
    first, last = (-1, 0) if block.flipped else (0, -1)
    u = block(z, label).u
    with torch.no_grad():
        block.positions[last] += 1
    assert torch.equal(block(z, label).u, u), "the last decoded token predicts nothing"
    with torch.no_grad():
        block.positions[first] += 1
    assert not torch.equal(block(z, label).u, u)


def test_log_scale_stays_within_its_bound(config, random_flow, random_batch):
    block = random_flow(replace(config, log_scale_bound=0.5), head_std=10.0).blocks[0]
    z, label = random_batch(config)
    matrix = jacobian(lambda tokens: block(tokens[None], label[1:])[0][0], z[1])
    scales = torch.einsum("kdkd -> kd", matrix).log().abs()
    assert scales.max() <= 0.5 + 1e-12
    assert scales.max() > 0.49


def test_shift_is_not_bounded(config, random_flow, random_batch):
    block = random_flow(replace(config, log_scale_bound=0.5), head_std=10.0).blocks[0]
    z, label = random_batch(config)
    assert block(torch.zeros_like(z), label).u.abs().max() > 10


@pytest.mark.parametrize("raw", [-200.0, -95.0, -40.0, -31.0, -29.0, -3.0, 0.0, 5.0, 60.0])
def test_softplus_and_its_gradient_stay_finite_however_far_below_zero(raw, config, random_flow):
    config = replace(config, scale="softplus", log_scale_bound=None)
    block = random_flow(config).blocks[0].float()
    x = torch.tensor(raw, requires_grad=True)
    found = block._log_scale(x)
    found.backward()
    exact = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    shifted = exact + math.log(math.e - 1)
    wanted = shifted.exp().log1p().log() if raw > -30 else shifted - shifted.exp() / 2
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6, abs=1e-6)
    assert x.grad.item() == pytest.approx(exact.grad.item(), rel=1e-5)
