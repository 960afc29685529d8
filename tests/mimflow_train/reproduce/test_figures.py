"""Numbers of the figures."""

from math import inf

import pytest
import torch

from genmetrics import SpectrumResult
from genmetrics.jacobian.estimate import Estimate
from genmetrics.jacobian.result import SpectrumSettings
from mimflow_train.reproduce.figures import spectrum_numbers

EXACT = SpectrumSettings(
    method="exact",
    smin="cg",
    delta=1e-6,
    tol=1e-3,
    max_products=20,
    dtype="float64",
    seed=0,
    jvp="forward",
)


def spectrum(sigma_min):
    """A spectrum whose largest values are 1; below 1e-16 the smallest are unresolved."""
    smallest = torch.tensor(sigma_min, dtype=torch.float64)
    done = torch.ones(len(smallest), dtype=torch.bool)
    largest, smallest = (
        Estimate(value, 0 * value, done.long(), done, "exact", 1, "exact")
        for value in (torch.ones_like(smallest), smallest)
    )
    return SpectrumResult(largest, smallest, 3, EXACT)


def test_unresolved_samples_are_the_worst_of_a_spectrum():
    most, some, none = (
        spectrum_numbers(spectrum([1e-2] * n + [1e-30] * (8 - n))) for n in (3, 5, 8)
    )
    assert (most["log10_kappa"], most["log10_sigma_min"]) == (inf, -inf)
    assert some["log10_kappa"] == pytest.approx(2)
    assert most["log10_kappa_range"] == some["log10_sigma_min_range"] == inf
    assert none["log10_kappa_range"] == 0
    assert [each["resolved"] for each in (most, some, none)] == [3 / 8, 5 / 8, 1]
    assert some["converged"] == 5 / 8


def test_a_spectrum_with_nothing_resolved_is_not_concentrated():
    found = spectrum_numbers(spectrum([1e-30] * 4))
    assert found["log10_kappa_range"] == found["log10_sigma_min_range"] == inf
