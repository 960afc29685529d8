import dataclasses

import pytest

from mimflow_train.device.costs import PartCost, RunCost
from mimflow_train.device.hardware import HARDWARE, named_hardware
from mimflow_train.device.step_time import step_time

COST = RunCost(
    trained=[PartCost("all", 649_750_000, 175.0)],
    discriminator=None,
    frozen=[],
    static_bytes=0,
    activation_bytes=1,
)


def time_of(config, workers, *, card="H100", share=0.212):
    named = named_hardware(card)
    return step_time(config, COST, named, workers=workers, share=share, flops=1.062e12)


@pytest.mark.parametrize("card", [each.name for each in HARDWARE])
@pytest.mark.parametrize("share", [0.087, 0.45])
def test_a_step_of_32_images_of_l_comes_to_the_share(config, card, share):
    time = time_of(dataclasses.replace(config, global_batch=32), 1, card=card, share=share)
    peak = 1e12 * named_hardware(card).tflops
    assert 32 * 1.062e12 / sum(time) == pytest.approx(share * peak)
    assert min(time.work, time.update) > 0
    assert time.waiting == 0


def test_the_update_takes_its_time_whatever_the_batch(config):
    times = [time_of(dataclasses.replace(config, global_batch=each), 1) for each in (8, 256)]
    assert times[0].update == times[1].update == pytest.approx(14e-3, rel=0.02)
    assert times[1].work == pytest.approx(32 * times[0].work)


def test_gradients_cross_amid_the_backward_pass_unless_it_is_a_graph(config):
    config = dataclasses.replace(config, global_batch=256)
    graph = dataclasses.replace(config, cuda_graph=True, compile=True)
    assert time_of(config, 8).waiting == 0
    assert time_of(graph, 8).waiting == pytest.approx(22.7e-3, rel=0.01)
    few = time_of(config, 64)
    assert few.waiting == pytest.approx(time_of(graph, 64).waiting - 2 / 3 * few.work)


def test_workers_that_share_the_weights_out_update_their_part_and_send_half_as_much_more(config):
    config = dataclasses.replace(config, global_batch=256, cuda_graph=True, compile=True)
    whole, shared = (time_of(dataclasses.replace(config, shard=each), 8) for each in (False, True))
    assert shared.update == pytest.approx(whole.update / 8)
    assert shared.waiting == pytest.approx(1.5 * whole.waiting)
