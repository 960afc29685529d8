import dataclasses

import pytest

from mimflow_train.device.costs import PartCost, RunCost
from mimflow_train.device.hardware import HARDWARE, named_hardware
from mimflow_train.device.step_time import image_as_measured, image_at_share, step_time

COST = RunCost(
    trained=[PartCost("all", 649_750_000, 175.0)],
    discriminator=None,
    frozen=[],
    static_bytes=0,
    activation_bytes=1,
)


def time_of(config, workers, *, card="H100", share=0.212):
    card = named_hardware(card)
    image = image_at_share(card, share, 1.062e12)
    return step_time(config, COST, card, workers=workers, image=image)


def as_measured(config, card="H100", again=0.0, **settings):
    """Return the milliseconds of 32 images of L on one card, without the update."""
    computed = dataclasses.replace(config, **settings)
    return 32e3 * image_as_measured(computed, named_hardware(card), 1.062e12, again)


GRAPH = {"compile": True, "cuda_graph": True}


def test_products_go_with_the_peak_and_all_else_with_the_memory(config):
    assert as_measured(config, **GRAPH) == pytest.approx(148)
    a100 = as_measured(config, card="A100 80GB", **GRAPH)
    assert a100 == pytest.approx(76 * 989 / 312 + 72 * 3.35 / 2.039)
    assert as_measured(config, card="H200", **GRAPH) == pytest.approx(76 + 72 * 3.35 / 4.8)


@pytest.mark.parametrize(("compiled", "launches"), [(False, 259), (True, 214)])
def test_a_faster_card_waits_for_the_same_launches(config, compiled, launches):
    for card in ("H100", "H200", "B200"):
        assert as_measured(config, card=card, compile=compiled) == pytest.approx(launches)
    if compiled:  # a slower one hides them
        graph = as_measured(config, card="A100 80GB", **GRAPH)
        assert as_measured(config, card="A100 80GB", compile=True) == pytest.approx(graph)


def test_layers_that_are_not_compiled_move_more(config):
    plain, compiled = (
        as_measured(config, card="A100 80GB", compile=each) for each in (False, True)
    )
    assert plain - compiled == pytest.approx(0.7 * 72 * 3.35 / 2.039)


def test_what_is_computed_again_takes_its_share(config):
    again = as_measured(config, "A100", compile=True, recompute=True, again=0.5 * 1.062e12)
    assert again == pytest.approx(1.5 * as_measured(config, "A100", compile=True))


def test_what_was_not_measured_has_no_time(config):
    card = named_hardware("H100")
    for wrong in ({"cuda_graph": True}, {"recompute": True}, {**GRAPH, "recompute": True}):
        assert image_as_measured(dataclasses.replace(config, **wrong), card, 1e12) is None


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
