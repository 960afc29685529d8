import pytest
import torch

from genmetrics.errors import BadInput
from genmetrics.jacobian.density import singular_value_density, square_sum
from genmetrics.jacobian.exact import singular_values
from genmetrics.jacobian.operators import Jacobian, deterministic


def test_square_sum_is_within_its_error(toy_flow, points):
    x = points(3, 5, 3)
    with deterministic(x.device):
        jacobian = Jacobian(toy_flow, x)
        expected = singular_values(jacobian).square().sum(1)
        before = jacobian.num_products
        found = square_sum(jacobian, x.flatten(1), num_probes=400)
    assert jacobian.num_products - before == 400
    assert ((found.mean - expected).abs() < 4 * found.standard_error).all()
    assert (found.standard_error < 0.1 * expected).all()


def test_square_sum_of_an_orthogonal_map_is_its_dimension(points):
    x = points(2, 500)
    with deterministic(x.device):
        found = square_sum(Jacobian(lambda x: -x, x), x, num_probes=100)
    torch.testing.assert_close(found.mean, torch.full_like(found.mean, 500.0), rtol=0.02, atol=0)
    expected = torch.full_like(found.mean, (2 * 500 / 100) ** 0.5)
    torch.testing.assert_close(found.standard_error, expected, rtol=0.2, atol=0)


def test_quadrature_is_exact_for_low_moments_of_its_start(linear, points):
    f, x = linear(torch.linspace(0.5, 3, 31).double()), points(1, 31)
    with deterministic(x.device):
        jacobian = Jacobian(f, x)
        rule = singular_value_density(jacobian, x, num_probes=1, num_steps=4, seed=5)
        from genmetrics.jacobian.operators import random_start

        v = random_start(x, 5)[0]
    gram = f.matrix.T @ f.matrix
    assert rule.nodes.shape == (1, 4)
    for power in range(8):  # degrees below 2 * 4
        expected = v @ torch.linalg.matrix_power(gram, power) @ v
        moment = (rule.weights * rule.nodes ** (2 * power)).sum()
        torch.testing.assert_close(moment, expected, rtol=1e-10, atol=0)


def test_quadrature_follows_the_distribution(linear, points):
    values = torch.cat([torch.full((300,), 0.5), torch.full((100,), 4.0)]).double()
    x = points(2, 400)
    with deterministic(x.device):
        rule = singular_value_density(Jacobian(linear(values), x), x, num_probes=8, num_steps=2)
    torch.testing.assert_close(rule.weights.sum(1), torch.ones(2).double(), rtol=1e-12, atol=0)
    share = (rule.weights * (rule.nodes > 2)).sum(1)
    torch.testing.assert_close(share, torch.full((2,), 0.25).double(), rtol=0, atol=0.05)


def test_one_probe_has_no_error(points):
    x = points(2, 3)
    with pytest.raises(BadInput, match="2 probes"):
        square_sum(Jacobian(lambda x: 2 * x, x), x, num_probes=1)
