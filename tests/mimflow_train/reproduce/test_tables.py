"""SD-VAE, as Table 2 counts it."""

import pytest

from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.tables import count_parameters


@pytest.fixture(scope="module")
def counted():
    row, _ = count_parameters(EXPERIMENTS["table2"]).rows
    return row.ours


def test_it_has_the_published_number_of_parameters(counted):
    assert counted["parameters_m"] == (83.653863,)


def test_its_work_is_within_half_a_percent_of_the_papers(counted):
    assert abs(counted["gmac"][0] / 446.21 - 1) < 0.005
