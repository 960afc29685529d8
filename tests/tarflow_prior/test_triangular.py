"""Blocks in their own order: together they are the flow, and each Jacobian is triangular."""

import pytest
import torch

from tarflow_prior import TarFlow, TarFlowConfig, triangular_blocks


@pytest.fixture
def flow():
    config = TarFlowConfig(
        num_tokens=4, token_dim=2, width=16, head_dim=8, depths=(1, 1), num_classes=3
    )
    torch.manual_seed(0)
    flow = TarFlow(config).double()
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return flow


@pytest.mark.parametrize("label", [None, torch.tensor([2, 0])])
def test_they_are_the_flow_one_after_the_other(flow, label):
    z = torch.randn(2, 4, 2, dtype=torch.float64)
    x, log_det = z, 0
    for block in triangular_blocks(flow, label):
        x = block.permute(x)
        log_det = log_det - block.log_scale(x).sum((1, 2))
        x = block.unpermute(block(x))
    wanted = flow(z, label)
    torch.testing.assert_close(x, wanted.u)
    torch.testing.assert_close(log_det, wanted.log_det)


def test_each_jacobian_is_lower_triangular_with_the_scales_on_its_diagonal(flow):
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    for block in triangular_blocks(flow):
        jacobian = torch.autograd.functional.jacobian(block, x).reshape(8, 8)
        assert torch.equal(jacobian, jacobian.tril())
        torch.testing.assert_close(jacobian.diagonal(), (-block.log_scale(x)).exp().flatten())


def test_labels_may_be_on_another_device_than_the_flow_as_everywhere(flow):
    blocks = triangular_blocks(flow.to("meta"), torch.tensor([2, 0]))
    assert {block.label.device.type for block in blocks} == {"meta"}
