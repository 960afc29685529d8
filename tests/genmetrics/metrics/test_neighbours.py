import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch_fidelity.metric_prc import (
    calculate_precision_recall_full,
    calculate_precision_recall_part,
)

from genmetrics import BadInput, NumericalFailure, UsageError
from genmetrics.metrics.neighbours import _Distances, _squared_radii, precision_recall

ARITHMETICS = ["float32", "float64", "adm-fp16"]


def rows(n, d, seed, scale=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator) + offset


def squared_distances(u, v):
    return ((u[:, None] - v[None]) ** 2).sum(axis=2)


def by_matrices(generated, reference, k, distances=squared_distances):
    """Precision, recall, density and coverage from whole matrices of distances."""
    u, v = generated.numpy(), reference.numpy()
    if distances is squared_distances:
        u, v = u.astype(np.float64), v.astype(np.float64)
    made_radius = np.sort(distances(u, u), axis=1)[:, k]
    real_radius = np.sort(distances(v, v), axis=1)[:, k]
    across = distances(v, u)
    in_real = across <= real_radius[:, None]
    recalled = (across <= made_radius[None]).any(axis=1)
    return (
        in_real.any(axis=0).mean(),
        recalled.mean(),
        in_real.sum() / (k * len(u)),
        in_real.any(axis=1).mean(),
    )


def four(found):
    return found.precision, found.recall, found.density, found.coverage


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(7, 40),
    m=st.integers(7, 40),
    d=st.integers(1, 9),
    k=st.integers(1, 6),
    tile=st.integers(1, 45),
    seed=st.integers(0, 1000),
)
def test_agrees_with_whole_matrices_at_any_tile(n, m, d, k, tile, seed):
    generated, reference = rows(n, d, seed, 0.8, 0.1), rows(m, d, seed + 1)
    for precision in ("float32", "float64"):
        found = precision_recall(
            generated, reference, k=k, tile=tile, precision=precision, density_coverage=True
        )
        np.testing.assert_allclose(four(found), by_matrices(generated, reference, k), rtol=1e-12)


def test_agrees_with_torch_fidelity():
    generated, reference = rows(301, 17, 0, 0.9, 0.1), rows(283, 17, 1)
    found = precision_recall(generated, reference, tile=70)
    for theirs in (calculate_precision_recall_full, calculate_precision_recall_part):
        np.testing.assert_allclose(
            (found.precision, found.recall), theirs(generated, reference, 3), rtol=1e-6
        )
    assert 0.1 < found.recall < found.precision < 0.9


def half_distances(u, v):
    """ADM's float16 arithmetic; the sums are in float32, as a GPU's are."""
    u, v = u.astype(np.float16), v.astype(np.float16)
    square_sum = [(x * x).astype(np.float32).sum(axis=1).astype(np.float16) for x in (u, v)]
    products = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
    squared = square_sum[0][:, None] - np.float16(2) * products + square_sum[1][None]
    return np.maximum(squared, np.float16(0)).astype(np.float32)


def half_distances_by_block(u, v, block=100):
    """The same, with blocks that overflow in float32."""
    squared = np.empty((len(u), len(v)), dtype=np.float32)
    for i in range(0, len(u), block):
        for j in range(0, len(v), block):
            part = np.s_[i : i + block], np.s_[j : j + block]
            with np.errstate(over="ignore", invalid="ignore"):
                squared[part] = half_distances(u[part[0]], v[part[1]])
            if not np.isfinite(squared[part]).all():
                exact = squared_distances(*(x.astype(np.float64) for x in (u[part[0]], v[part[1]])))
                squared[part] = exact
    return squared


@pytest.mark.parametrize("offset", [0.0, 3.0])  # without one, rounding depends on the order
def test_adm_mode_repeats_its_float16_distances(offset):
    generated, reference = rows(997, 40, 0, 2.0, offset), rows(989, 40, 1, 2.1, offset)
    found = precision_recall(
        generated, reference, tile=170, precision="adm-fp16", density_coverage=True
    )
    expected = by_matrices(generated, reference, 3, half_distances)
    np.testing.assert_allclose(four(found), expected, rtol=1e-12)
    exact = precision_recall(generated, reference, density_coverage=True)
    assert four(found) != four(exact)


def test_adm_mode_rounds_below_the_diagonal_in_its_own_order():
    x = rows(997, 40, 2, 2.0)
    squared = half_distances(x.numpy(), x.numpy())
    upper = np.triu(squared)
    expected, mirrored = (np.sort(d, axis=1)[:, 3] for d in (squared, np.maximum(upper, upper.T)))
    found = _squared_radii(_Distances("adm-fp16", 50, x[0]), x, 3)
    np.testing.assert_array_equal(found, expected)
    assert (expected != mirrored).any()


@pytest.mark.parametrize(
    ("made_offset", "real_offset"),
    [(12.0, 12.0), (25.0, -25.0), (30.0, 30.0), (50.0, 50.0)],
    ids=["bound", "look", "product", "norm"],
)
def test_adm_mode_returns_to_float32_where_a_block_overflows(monkeypatch, made_offset, real_offset):
    """A product of 36,000 overflows when doubled: distance 0, before ADM looks for infinities."""
    monkeypatch.setattr("genmetrics.metrics.neighbours._BLOCK", 100)
    generated, reference = rows(247, 40, 0, 2.0, 3.0), rows(243, 40, 1, 2.1, 3.0)
    generated[220:] += made_offset
    reference[225:] += real_offset
    found = precision_recall(
        generated, reference, tile=30, precision="adm-fp16", density_coverage=True
    )
    expected = by_matrices(generated, reference, 3, half_distances_by_block)
    np.testing.assert_allclose(four(found), expected, rtol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_blocks_change_nothing(monkeypatch, precision):
    generated, reference = rows(47, 5, 0, 0.8), rows(43, 5, 1)
    expected = precision_recall(generated, reference, precision=precision, density_coverage=True)
    monkeypatch.setattr("genmetrics.metrics.neighbours._BLOCK", 13)
    options = {"precision": precision, "density_coverage": True, "tile": 5}
    assert precision_recall(generated, reference, **options) == expected


@pytest.mark.parametrize("precision", ARITHMETICS)
def test_a_set_is_inside_itself(precision):
    x = rows(50, 64, 0, offset=3.0)
    found = precision_recall(x, x, precision=precision, density_coverage=True)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


@pytest.mark.parametrize("precision", ARITHMETICS)
def test_far_sets_share_nothing(precision):
    x = rows(50, 5, 0)
    found = precision_recall(x, x + 90, precision=precision, density_coverage=True)
    assert four(found) == (0, 0, 0, 0)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_repeated_images_have_balls_of_no_size_that_hold_their_copies(precision):
    images = rows(40, 301, 0)
    found = precision_recall(
        images[:33].repeat_interleave(2, dim=0),
        images.repeat(2, 1),
        k=1,
        tile=7,  # products of another shape are rounded differently
        precision=precision,
        density_coverage=True,
    )
    assert four(found) == (1, 33 / 40, 2, 33 / 40)


def test_a_small_gap_far_from_the_origin_costs_no_digits():
    generated, reference = rows(47, 5, 0, 0.8), rows(43, 5, 1)
    moved = precision_recall(generated + 1024, reference + 1024, density_coverage=True)
    # The shift itself rounds the features to 2^-14.
    expected = by_matrices(generated + 1024, reference + 1024, 3)
    np.testing.assert_allclose(four(moved), expected, rtol=1e-12)


def test_swapping_the_sets_swaps_precision_and_recall():
    x, y = rows(47, 5, 0, 0.8), rows(43, 5, 1)
    forth, back = precision_recall(x, y, tile=9), precision_recall(y, x, tile=9)
    assert (forth.precision, forth.recall) == (back.recall, back.precision)
    assert forth.n_generated == back.n_reference


def test_grow_with_the_number_of_neighbours():
    x, y = rows(47, 5, 0, 0.8, 0.3), rows(43, 5, 1)
    found = [precision_recall(x, y, k=k, density_coverage=True) for k in (1, 2, 4, 8)]
    for name in ("precision", "recall", "coverage"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(values)
        assert values[0] < values[-1]


def test_says_what_the_numbers_depend_on():
    found = precision_recall(rows(47, 5, 0, 0.8), rows(43, 5, 1), k=2, precision="float64")
    assert (found.n_generated, found.n_reference, found.k, found.mode) == (47, 43, 2, "float64")
    assert (found.density, found.coverage) == (None, None)
    assert (found.density_se, found.coverage_se) == (None, None)
    p = (47 * found.precision + 2) / 51
    assert found.precision_se == pytest.approx((p * (1 - p) / 51) ** 0.5)


@pytest.mark.parametrize("tile", [7, 1000])
def test_recall_s_error_is_the_jackknife_of_taking_one_ball_away(tile):
    made, real = rows(53, 3, 0, 0.5), rows(401, 3, 1)
    radius = torch.cdist(made, made).kthvalue(3, dim=1).values
    inside = torch.cdist(real, made) <= radius
    left = [inside[:, torch.arange(53) != i].any(dim=1).double().mean() for i in range(53)]
    expected = torch.stack(left).std(correction=0).item() * 52**0.5
    found = precision_recall(made, real, k=2, tile=tile)
    assert found.recall == inside.any(dim=1).double().mean().item()
    assert found.recall_se == pytest.approx(expected, rel=1e-9)


def test_errors_are_the_spread_over_new_samples_and_recall_s_is_not_less():
    real = rows(199, 4, 0)
    made = [rows(211, 4, seed, 0.7, offset=0.5) for seed in range(1, 61)]
    found = [precision_recall(each, real, density_coverage=True) for each in made]
    for name, low, high in (
        ("precision", 0.75, 1.25),
        ("recall", 0.85, 1.8),
        ("density", 0.75, 1.25),
        ("coverage", 0.75, 1.25),
    ):
        spread = torch.tensor([getattr(each, name) for each in found]).std().item()
        error = torch.tensor([getattr(each, f"{name}_se") for each in found]).mean().item()
        assert low < error / spread < high, name


def test_shares_of_none_and_all_have_an_error():
    found = precision_recall(rows(19, 3, 0) + 99, rows(17, 3, 1))
    assert (found.precision, found.recall) == (0, 0)
    assert found.precision_se == pytest.approx((2 / 23 * 21 / 23 / 23) ** 0.5)
    assert found.recall_se == pytest.approx((2 / 21 * 19 / 21 / 21) ** 0.5)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("precision", ARITHMETICS)
def test_no_matrix_of_all_pairs_is_made(precision):
    generated, reference = rows(400, 3, 0), rows(500, 3, 1)
    with LargestTensor() as largest:
        precision_recall(generated, reference, tile=20, precision=precision)
    assert largest.numel <= 500 * 4


@pytest.mark.parametrize(("n", "m", "name"), [(3, 9, "generated"), (9, 3, "reference")])
def test_sets_of_at_most_k_are_refused(n, m, name):
    with pytest.raises(BadInput, match=f"more than k=3 samples in the {name} set; got 3"):
        precision_recall(rows(n, 4, 0), rows(m, 4, 1))


@pytest.mark.parametrize("options", [{"k": 0}, {"tile": 0}], ids=str)
def test_options_below_one_are_refused(options):
    with pytest.raises(UsageError, match="k and tile of at least 1"):
        precision_recall(rows(9, 4, 0), rows(9, 4, 1), **options)


def test_non_finite_features_are_refused_by_row():
    x = rows(9, 4, 0)
    x[5] = float("nan")
    with pytest.raises(NumericalFailure, match=r"the reference set; .* 1 of 9 rows \(5\)"):
        precision_recall(rows(9, 4, 1), x)
