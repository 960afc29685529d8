import json
import math

import pytest
import torch

from genmetrics.errors import BadInput, UsageError
from genmetrics.jacobian.estimate import Tracker
from genmetrics.jacobian.result import SpectrumResult, log_det_check
from genmetrics.jacobian.spectrum import _require_blocks, jacobian_spectrum

METHODS = ("exact", "gkl", "power")


@pytest.mark.parametrize("method", METHODS)
def test_a_diagonal_map_has_its_scales_as_singular_values(points, method):
    scales = torch.tensor([0.25, -3.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    result = jacobian_spectrum(
        lambda x: scales * x + 7,
        points(2, 5),
        inverse=lambda y: (y - 7) / scales,
        method=method,
        tol=1e-9,
    )
    expected = torch.tensor([3.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(result.sigma_max, expected[:1].expand(2), rtol=1e-9, atol=0)
    torch.testing.assert_close(result.sigma_min, expected[1:].expand(2), rtol=1e-9, atol=0)
    torch.testing.assert_close(result.log10_kappa, torch.full_like(expected, math.log10(12)))
    assert result.converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_a_permutation_has_ones(points, method):
    order = torch.tensor([3, 0, 4, 1, 2])
    result = jacobian_spectrum(lambda x: x[:, order], points(2, 5), method=method)
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(result.sigma_max, ones, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.sigma_min, ones, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e5])
def test_the_inverse_finds_what_cg_cannot(log_uniform, points, kappa):
    f, x = log_uniform(211, kappa), points(2, 211)
    true = torch.full((2,), 1 / kappa, dtype=torch.float64)
    inverse = jacobian_spectrum(f, x, inverse=f.inverse, method="gkl")
    assert inverse.converged.all()
    assert inverse.smallest.method == "inverse+gkl"
    torch.testing.assert_close(inverse.sigma_min, true, rtol=1e-4, atol=0)
    torch.testing.assert_close(inverse.sigma_max, torch.ones_like(true), rtol=1e-4, atol=0)
    cg = jacobian_spectrum(f, x, method="gkl", smin="cg", max_products=400)
    assert not cg.smallest.converged.any()
    assert (cg.sigma_min > 1.01 * true).all()
    assert cg.smallest.bound == "upper"
    assert (cg.smallest.num_products, cg.largest.num_products < 100) <= (400, True)


def test_a_residual_does_not_make_up_for_a_solve_cut_short(log_uniform, points):
    f = log_uniform(101, 30.0)
    result = jacobian_spectrum(
        f, points(1, 101), smin="cg", method="gkl", tol=1.0, max_products=200
    )
    assert result.smallest.residual.item() < 1
    assert result.smallest.iterations.item() == 10
    assert not result.smallest.converged.any()
    assert result.smallest.value.item() > 1.05 / 30


@pytest.mark.parametrize("seed", range(3))
def test_cg_converges_where_the_condition_number_is_small(linear, points, seed):
    values = torch.cat([torch.linspace(1, 5, 30), torch.tensor([0.2])]).double()
    f = linear(values, seed=seed)
    result = jacobian_spectrum(f, points(2, 31), method="power", smin="cg", seed=seed)
    assert result.smallest.converged.all()
    torch.testing.assert_close(
        result.sigma_min, torch.full((2,), 0.2, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_a_large_shift_hides_the_smallest(linear, points):
    f = linear(torch.cat([torch.linspace(1, 5, 30), torch.tensor([0.2])]).double())
    options = {"method": "gkl", "smin": "cg"}
    shifted = jacobian_spectrum(f, points(1, 31), delta=1e6, **options)
    assert shifted.sigma_min.item() > 0.3
    assert not shifted.converged.any()


def test_a_sample_keeps_what_it_had_when_it_converged(points):
    tracker = Tracker(points(2, 3), tol=0.1)
    assert not tracker.update(torch.tensor([1.0, 2.0]), torch.tensor([0.05, 0.5]))
    assert tracker.update(torch.tensor([3.0, 4.0]), torch.tensor([0.01, 0.1]))
    assert tracker.value.tolist() == [1.0, 4.0]
    assert tracker.residual.tolist() == pytest.approx([0.05, 0.1])
    assert tracker.iterations.tolist() == [1, 2]


@pytest.mark.parametrize("method", ["gkl", "power"])
@pytest.mark.parametrize("smin", ["triangular", "inverse", "cg"])
def test_estimates_stay_on_their_side_of_the_truth(make_toy_flow, points, method, smin):
    flow, x = make_toy_flow(5, 3, strength=0.5), points(4, 5, 3)
    exact = jacobian_spectrum(flow, x, method="exact")
    for max_products in (20, 60, 600):
        rough = jacobian_spectrum(
            flow,
            x,
            inverse=flow.inverse,
            blocks=flow.blocks,
            method=method,
            smin=smin,
            max_products=max_products,
        )
        assert (rough.sigma_max <= exact.sigma_max * (1 + 1e-12)).all()
        assert (rough.sigma_min >= exact.sigma_min * (1 - 1e-9)).all()
        # A triangular product is whole, so it may run over by one.
        assert rough.largest.num_products <= max_products
        assert (rough.largest.bound, rough.smallest.bound) == ("lower", "upper")


def test_lanczos_needs_fewer_products_than_power_iteration(log_uniform, points):
    f, x = log_uniform(211, 1e3), points(2, 211)
    gkl, power = (
        jacobian_spectrum(f, x, inverse=f.inverse, method=method) for method in ("gkl", "power")
    )
    assert power.converged.all()
    assert gkl.largest.num_products < power.largest.num_products / 2
    assert ((1 - gkl.sigma_max) < (1 - power.sigma_max)).all()


def test_lanczos_finds_the_largest_of_a_small_matrix_to_the_last_digit(linear, points):
    f = linear(torch.tensor([1.0, 0.99, 0.98, 0.5, 0.1, 0.01, 0.001]).double())
    result = jacobian_spectrum(f, points(2, 7), inverse=f.inverse, method="gkl", tol=1e-14)
    assert (result.largest.iterations <= 7).all()
    torch.testing.assert_close(result.sigma_max, torch.ones(2).double(), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        result.sigma_min, torch.full((2,), 0.001, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_scaling_the_map_scales_both_ends(make_toy_flow, points):
    flow, x = make_toy_flow(5, 3, strength=0.5), points(2, 5, 3)
    plain, scaled = (
        jacobian_spectrum(
            lambda x, c=c: c * flow(x)[0],
            x,
            inverse=lambda z, c=c: flow.inverse(z / c),
            method="gkl",
        )
        for c in (1.0, 8.0)
    )
    torch.testing.assert_close(scaled.sigma_max, 8 * plain.sigma_max, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled.sigma_min, 8 * plain.sigma_min, rtol=1e-9, atol=0)
    torch.testing.assert_close(scaled.log10_kappa, plain.log10_kappa, rtol=1e-9, atol=0)


def test_a_sample_does_not_depend_on_its_batch(toy_flow, points):
    x = points(3, 5, 3)
    whole, alone = (
        jacobian_spectrum(toy_flow, part, blocks=toy_flow.blocks, method="gkl")
        for part in (x, x[1:2])
    )
    torch.testing.assert_close(whole.sigma_max[1:2], alone.sigma_max, rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.sigma_min[1:2], alone.sigma_min, rtol=1e-9, atol=0)
    assert whole.largest.iterations[1] == alone.largest.iterations[0]
    assert len(set(whole.sigma_max.tolist())) == 3


@pytest.mark.parametrize("method", ["exact", "gkl"])
@pytest.mark.parametrize(
    ("dtype", "ratio", "resolved"),
    [
        (torch.float64, 1e-15, True),
        (torch.float64, 1e-17, False),
        (torch.float32, 1e-6, True),
        (torch.float32, 1e-8, False),
    ],
    ids=lambda value: str(value),
)
def test_below_the_machine_epsilon_there_is_no_number(points, method, dtype, ratio, resolved):
    scales = torch.tensor([1.0, 0.5, ratio], dtype=dtype)
    result = jacobian_spectrum(
        lambda x: scales * x, points(1, 3), inverse=lambda y: y / scales, method=method, dtype=dtype
    )
    assert result.resolved.tolist() == [resolved]
    assert result.converged.tolist() == [resolved]
    sample = result.to_dict()["samples"][0]
    assert (sample["sigma_min"] is not None) is resolved
    assert (sample["reason"] is None) is resolved
    assert ("unresolved" in result.to_text()) is not resolved
    json.dumps(result.to_dict(), allow_nan=False)
    if resolved:
        assert result.sigma_min.item() == pytest.approx(ratio, rel=1e-3)
        assert sample["ln_kappa"] == pytest.approx(-math.log(ratio), rel=1e-3)


def test_a_log_determinant_that_is_no_number_has_none_in_json(points):
    log_det = torch.tensor([-math.inf, math.nan, 0.0])
    result = jacobian_spectrum(lambda x: (x + 0, log_det.to(x)), points(3, 5))
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [sample["log_det"] for sample in written["samples"]] == [None, None, 0.0]
    assert [sample["log_det_consistent"] for sample in written["samples"]] == [False, False, True]
    assert "log-determinant consistent in 1 of 3" in result.to_text()


def test_the_log_determinant_of_the_flow_is_held_against_the_values(toy_flow, points):
    exact = jacobian_spectrum(toy_flow, points(3, 5, 3))
    check = log_det_check(exact, exact.log_det)
    assert check.consistent.all()
    assert check.gap.max() < 1e-10
    assert not log_det_check(exact, exact.log_det + 1e-3).consistent.any()
    torch.testing.assert_close(log_det_check(exact.singular_values, exact.log_det).gap, check.gap)
    with pytest.raises(BadInput, match="each of 3"):
        log_det_check(exact, exact.log_det[:2])


def test_estimates_bound_the_log_determinant(toy_flow, points):
    result = jacobian_spectrum(toy_flow, points(3, 5, 3), blocks=toy_flow.blocks, method="gkl")
    assert result.log_det is not None
    check = log_det_check(result, result.log_det)
    assert check.consistent.all()
    assert check.gap.isnan().all()
    far = 15 * result.log10_kappa.max() * math.log(10)
    for shift in (far, -far):
        assert not log_det_check(result, result.log_det + shift).consistent.any()


def test_a_flat_spectrum_passes_the_log_determinant_test(points):
    x = points(2, 3)
    log_det = torch.full((2,), 3 * math.log(2), dtype=torch.float64)
    result = jacobian_spectrum(
        lambda x: (2 * x, log_det), x, inverse=lambda y: y / 2, method="power"
    )
    assert log_det_check(result, log_det).consistent.all()


def test_the_result_says_what_was_done(log_uniform, points):
    f, x = log_uniform(31, 50.0), points(4, 31)
    result = jacobian_spectrum(f, x, inverse=f.inverse, method="gkl", seed=3, tol=1e-4)
    found = result.to_dict()
    assert (found["n"], found["dim"], found["converged"], found["resolved"]) == (4, 31, 4, 4)
    assert found["bounds"] == {"sigma_max": "lower", "sigma_min": "upper"}
    assert found["methods"] == {"sigma_max": "gkl", "sigma_min": "inverse+gkl"}
    assert found["settings"] == {
        "method": "gkl",
        "smin": "inverse",
        "delta": 1e-6,
        "tol": 1e-4,
        "max_products": 2000,
        "dtype": "float64",
        "seed": 3,
        "jvp": "forward",
    }
    assert found["summary"]["sigma_min"]["median"] == pytest.approx(0.02, rel=1e-4)
    assert found["samples"][2]["log_det"] is found["samples"][2]["log_det_consistent"] is None
    assert 0 < found["samples"][0]["largest"]["residual"] <= 1e-4
    assert "4 samples, 4 converged, 4 resolved" in result.to_text()
    assert "sigma_min: upper bound by inverse+gkl" in result.to_text()


def test_quantiles_are_those_of_the_samples(points):
    x = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None].expand(5, 2)
    result = jacobian_spectrum(lambda x: x**2 / 2, x)  # J = diag(x)
    summary = result.summary()["sigma_max"]
    assert {k: round(v, 9) for k, v in summary.items()} == {
        "n": 5,
        "p05": 1.2,
        "q25": 2.0,
        "median": 3.0,
        "q75": 4.0,
        "p95": 4.8,
    }


def test_batches_join_to_the_whole(toy_flow, points):
    x = points(5, 5, 3)
    for method in ("exact", "gkl"):
        whole, *parts = (
            jacobian_spectrum(toy_flow, part, blocks=toy_flow.blocks, method=method)
            for part in (x, x[:3], x[3:])
        )
        joined = SpectrumResult.concatenate(parts)
        torch.testing.assert_close(joined.sigma_max, whole.sigma_max)
        torch.testing.assert_close(joined.log_det, whole.log_det)
        assert (joined.singular_values is None) is (method == "gkl")
        assert len(joined.to_dict()["samples"]) == 5


def test_large_maps_are_not_made_explicit(points):
    x = points(1, 8193)
    with pytest.raises(UsageError, match="8192"):
        jacobian_spectrum(lambda x: 2 * x, x, method="exact")
    assert jacobian_spectrum(lambda x: 2 * x, x).largest.method == "gkl"
    assert jacobian_spectrum(lambda x: 2 * x, x[:, :512]).largest.method == "exact"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smin": "inverse", "method": "gkl"}, "inverse for smin"),
        ({"smin": "triangular", "method": "gkl"}, "blocks for smin"),
        ({"tol": 0.0}, "above 0"),
        ({"delta": -1.0}, "above 0"),
        ({"max_products": 19}, "at least 20"),
        ({"dtype": torch.bfloat16}, "bfloat16"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_cannot_be_used_are_refused(points, options, message):
    with pytest.raises(UsageError, match=message):
        jacobian_spectrum(lambda x: 2 * x, points(2, 3), **options)


def test_an_inverse_of_something_else_is_refused(points):
    with pytest.raises(BadInput, match="inverse"):
        jacobian_spectrum(lambda x: 2 * x, points(2, 3), inverse=lambda y: y / 3, method="gkl")


def test_an_inverse_with_a_false_derivative_is_refused(points):
    def solved(y):
        x = (y / 2).detach()
        return x + (y - y.detach())  # the right value, and a slope of 1 in place of 1/2

    with pytest.raises(UsageError, match="derivative of inverse"):
        jacobian_spectrum(lambda x: 2 * x, points(2, 3), inverse=solved, method="gkl")


def test_no_samples_are_refused(points):
    with pytest.raises(BadInput, match="at least one number"):
        jacobian_spectrum(lambda x: x, points(0, 3))


def test_blocks_that_do_not_know_their_own_order_are_refused_by_name():
    with pytest.raises(UsageError, match=r"permute and unpermute; got Linear\. Pass tarflow_prior"):
        _require_blocks([torch.nn.Linear(2, 2)])
