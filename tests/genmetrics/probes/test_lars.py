import pytest
import torch

from genmetrics.errors import UsageError
from genmetrics.probes.lars import LARS


def parameter(values, grad):
    p = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
    p.grad = torch.tensor(grad, dtype=torch.float64)
    return p


def test_two_steps_by_hand():
    p = parameter([[3.0, 0.0], [0.0, 4.0]], [[0.0, 6.0], [8.0, 0.0]])
    optimizer = LARS([p], lr=10.0, trust=0.01)
    optimizer.step()
    # |p| = 5, |g| = 10: the gradient shrinks to 0.01 * 5 / 10 of itself.
    first = torch.tensor([[3.0, -0.3], [-0.4, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(p.data, first, rtol=0, atol=1e-12)
    p.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    optimizer.step()
    # |p|^2 = 25 + 0.25; the momentum holds 0.9 of (0.03, 0.04).
    scaled = 0.01 * 25.25**0.5
    second = first - 10 * torch.tensor(
        [[scaled, 0.9 * 0.03], [0.9 * 0.04, 0.0]], dtype=torch.float64
    )
    torch.testing.assert_close(p.data, second, rtol=0, atol=1e-12)


def test_vectors_get_plain_momentum():
    p = parameter([3.0, 4.0], [1.0, 2.0])
    optimizer = LARS([p], lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.step()
    expected = torch.tensor([3.0 - 0.1 * 2.9, 4.0 - 0.1 * 5.8], dtype=torch.float64)
    torch.testing.assert_close(p.data, expected, rtol=0, atol=1e-12)


def test_decay_comes_before_the_scaling():
    p = parameter([[3.0, 4.0]], [[1.0, 0.0]])
    LARS([p], lr=1.0, weight_decay=0.5, trust=0.1).step()
    # g = (1, 0) + 0.5 (3, 4) = (2.5, 2), then scaled to a tenth of |p| = 5.
    step = 0.5 / 10.25**0.5
    expected = torch.tensor([[3 - 2.5 * step, 4 - 2 * step]], dtype=torch.float64)
    torch.testing.assert_close(p.data, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("value", "grad"), [(0.0, 2.0), (2.0, 0.0)])
def test_a_length_of_zero_means_no_scaling(value, grad):
    p = parameter([[value]], [[grad]])
    LARS([p], lr=0.25).step()
    assert p.item() == value - 0.25 * grad


def test_tensors_without_gradient_stay():
    p = torch.nn.Parameter(torch.ones(2, 2))
    LARS([p], lr=1.0).step()
    assert torch.equal(p.data, torch.ones(2, 2))


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"weight_decay": -1.0}, {"momentum": 1.0}, {"trust": 0.0}], ids=str
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="Expected lr and weight_decay of at least 0"):
        LARS([torch.nn.Parameter(torch.ones(1))], **{"lr": 1.0} | wrong)
