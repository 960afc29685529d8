import numpy as np
import pytest
import torch

from genmetrics import (
    BadInput,
    frechet_at_equal_count,
    frechet_distance_from_features,
    frechet_floor,
)


def rows(n, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator, dtype=torch.float64) + offset


@pytest.mark.parametrize(("wanted", "used"), [(5, 5), (20, 20), (21, 20), (500, 20)])
def test_takes_at_most_half_of_the_reference(wanted, used):
    assert frechet_floor(rows(41, 0), wanted).n == used


def test_the_two_sides_share_no_image(monkeypatch):
    pairs = []

    def record(x, y):
        pairs.append((set(x[:, 0].tolist()), set(y[:, 0].tolist())))
        return frechet_distance_from_features(x, y)

    monkeypatch.setattr("genmetrics.metrics.frechet_floor.frechet_distance_from_features", record)
    floor = frechet_floor(rows(9, 0), 4)
    assert len(pairs) == floor.num_draws > 1
    assert all(len(x) == len(y) == 4 and not x & y for x, y in pairs)


def test_the_same_seed_gives_the_same_floor_and_another_seed_another():
    reference = rows(40, 0)
    assert frechet_floor(reference, 10, seed=3) == frechet_floor(reference, 10, seed=3)
    assert frechet_floor(reference, 10, seed=3) != frechet_floor(reference, 10, seed=4)


def test_floor_falls_with_the_number_of_images():
    reference = rows(400, 0)
    floors = [frechet_floor(reference, n).value for n in (10, 40, 200)]
    assert floors == sorted(floors, reverse=True)


def test_perfect_samples_score_near_the_floor_and_others_above():
    reference = rows(400, 0)
    floor = frechet_floor(reference, 100)
    perfect = frechet_at_equal_count(rows(100, 1), reference, 100)
    shifted = frechet_at_equal_count(rows(100, 1, offset=0.5), reference, 100)
    assert perfect.n == shifted.n == floor.n == 100
    assert 0.3 < perfect.value / floor.value < 3
    assert shifted.value > 5 * floor.value


def test_all_samples_are_used_when_there_are_n():
    samples, reference = rows(10, 0), rows(20, 1)
    found = frechet_at_equal_count(samples, reference, 10)
    draws = torch.Generator().manual_seed(0)
    expected = [
        frechet_distance_from_features(
            samples, reference[torch.randperm(20, generator=draws)[:10]]
        ).value
        for _ in range(found.num_draws)
    ]
    np.testing.assert_allclose(found.value, np.mean(expected), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.std(expected), rtol=1e-9)


def test_the_reference_itself_does_not_score_zero_at_equal_count():
    reference = rows(40, 0)
    assert frechet_at_equal_count(reference, reference, 40).value > 0.01


def test_too_small_a_reference_is_refused():
    with pytest.raises(BadInput, match="at least 4 reference images"):
        frechet_floor(rows(3, 0), 10)
