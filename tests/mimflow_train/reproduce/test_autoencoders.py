import pytest

from mimflow_train.recipes import IMAGENET_CLASSES, paper
from mimflow_train.reproduce.autoencoders import sd_vae_cost


@pytest.fixture(scope="module")
def cost():
    return sd_vae_cost(paper("L", IMAGENET_CLASSES, "imagenet").model)


def test_it_has_the_published_number_of_parameters(cost):
    assert cost.parameters == 83_653_863


def test_its_work_is_within_half_a_percent_of_the_papers(cost):
    assert abs(cost.gmac / 446.21 - 1) < 0.005
