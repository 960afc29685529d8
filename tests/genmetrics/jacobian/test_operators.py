import warnings

import pytest
import torch
from torch import nn

from genmetrics.errors import BadInput, UsageError
from genmetrics.jacobian.exact import explicit_jacobian
from genmetrics.jacobian.operators import Jacobian, deterministic
from genmetrics.jacobian.spectrum import jacobian_spectrum


def dense(f, x):
    """One matrix per sample, by torch's own way, of one pass: a batch of one rounds differently."""
    rows = x.flatten(1)
    whole = torch.autograd.functional.jacobian(lambda r: f(r.reshape(x.shape)).flatten(1), rows)
    return torch.stack([whole[i, :, i] for i in range(len(x))])


def value_of(flow):
    return lambda x: flow(x)[0]


@pytest.mark.parametrize(("jvp", "tol"), [("forward", 1e-13), ("differences", 1e-6)])
def test_products_are_those_of_the_explicit_jacobian(toy_flow, points, jvp, tol):
    x, v, u = points(2, 5, 3), points(2, 15, seed=1), points(2, 15, seed=2)
    matrix = dense(value_of(toy_flow), x)
    with deterministic(x.device):
        jacobian = Jacobian(toy_flow, x, jvp=jvp)
        scale = matrix.abs().max()
        pushed, pulled = jacobian.push(v), jacobian.pull(u)
        torch.testing.assert_close(
            pushed, (matrix @ v[..., None])[..., 0], rtol=0, atol=tol * scale
        )
        torch.testing.assert_close(
            pulled, (matrix.mT @ u[..., None])[..., 0], rtol=0, atol=1e-13 * scale
        )
        torch.testing.assert_close(explicit_jacobian(jacobian), matrix, rtol=1e-13, atol=1e-13)
    assert jacobian.num_products == 2 + 15


def test_products_are_adjoint(attention_map, points):
    x, v, u = points(3, 5, 4), points(3, 20, seed=1), points(3, 20, seed=2)
    with deterministic(x.device, attention_map):
        jacobian = Jacobian(attention_map, x)
        left, right = (u * jacobian.push(v)).sum(1), (jacobian.pull(u) * v).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_forward_mode_raises_no_warning_and_leaves_the_filters_alone(attention_map, points):
    x = points(2, 5, 4)
    before = list(warnings.filters)
    jacobian_spectrum(attention_map, x, method="gkl", smin="cg", max_products=20)
    assert warnings.filters == before


def test_modules_run_in_eval_mode_and_get_their_mode_back(attention_map, points):
    attention_map.train()
    frozen = attention_map.dropout.eval()
    x = points(2, 5, 4)
    with deterministic(x.device, attention_map.forward):
        assert not attention_map.training
    assert attention_map.training
    assert not frozen.training


def test_precision_settings_are_those_promised_and_come_back(points):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        linear, seen = nn.Linear(3, 3, bias=False), set()

        def f(x):
            seen.add(torch.get_float32_matmul_precision())
            return linear(x)

        with torch.autocast("cpu", torch.bfloat16):
            result = jacobian_spectrum(f, points(2, 3), dtype=torch.float32)
        assert seen == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert result.sigma_max.dtype == torch.float32


def test_precision_may_be_chosen_in_torch_s_newer_way(points):
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        result = jacobian_spectrum(lambda x: 2 * x, points(2, 3))
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert result.sigma_max.tolist() == [2, 2]


def test_a_kernel_without_forward_mode_is_named(points):
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    x = points(2, 3)
    with pytest.raises(UsageError, match=r"forward-mode AD.*MATH.*differences"):
        jacobian_spectrum(Fused.apply, x, method="gkl", smin="cg")
    result = jacobian_spectrum(Fused.apply, x, method="gkl", smin="cg", jvp="differences")
    torch.testing.assert_close(result.sigma_max, torch.full((2,), 2.0).double(), rtol=1e-8, atol=0)
    exact = jacobian_spectrum(Fused.apply, x, method="exact")
    assert exact.sigma_min.tolist() == [2.0, 2.0]


def test_batch_statistics_are_refused(points):
    x = points(4, 3)
    with pytest.raises(UsageError, match="independently"):
        jacobian_spectrum(lambda x: x - 0.1 * x.mean(dim=0), x)
    norm = nn.BatchNorm1d(3).double()
    assert jacobian_spectrum(norm, x).converged.all()


def test_noise_is_refused(points):
    with pytest.raises(UsageError, match="dropout"):
        jacobian_spectrum(lambda x: nn.functional.dropout(x, 0.5), points(4, 7))


def test_a_flow_of_another_dtype_is_refused(points):
    with pytest.raises(UsageError, match=r"dtype of x.*model\.double"):
        jacobian_spectrum(nn.Linear(3, 3), points(2, 3))
    with pytest.raises(UsageError, match=r"float64; got torch\.float32"):
        jacobian_spectrum(lambda x: x.float(), points(2, 3))


def test_a_flow_without_gradient_is_refused(points):
    with pytest.raises(UsageError, match="without gradient"):
        jacobian_spectrum(lambda x: x.detach(), points(2, 3))


def test_a_map_to_fewer_dimensions_is_refused(points):
    with pytest.raises(UsageError, match=r"\(2, 3\); got \(2, 2\)"):
        jacobian_spectrum(lambda x: x[:, :2], points(2, 3))


def test_samples_without_a_value_are_named(points):
    with pytest.raises(BadInput, match=r"at \[1\]"):
        jacobian_spectrum(lambda x: x / x.new_tensor([[1.0], [0.0], [1.0]]), points(3, 2))
