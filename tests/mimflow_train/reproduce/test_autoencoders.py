from mimflow_train.reproduce.autoencoders import sd_vae_cost


def test_it_has_the_published_number_of_parameters():
    assert sd_vae_cost(64).parameters == 83_653_863


def test_its_work_is_within_half_a_percent_of_the_papers():
    assert abs(sd_vae_cost().gmac / 446.21 - 1) < 0.005
