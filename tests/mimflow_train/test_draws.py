import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimflow_train.draws import draw_step, drop_labels, generator, mirror


def test_workers_share_the_draws_of_the_global_batch(config):
    whole = draw_step(config, 3, slice(0, 8))
    halves = [draw_step(config, 3, slice(0, 4)), draw_step(config, 3, slice(4, 8))]
    for together, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(together, torch.cat(parts))


def test_steps_draw_differently(config):
    first, second = (draw_step(config, step, slice(0, 8)) for step in (0, 1))
    assert not torch.equal(first.masked, second.masked)
    assert not torch.equal(first.noise, second.noise)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 2**40), st.text(max_size=5), st.integers(0, 2**40))
def test_generator_depends_on_its_arguments_alone(seed, stream, step):
    first = torch.rand(3, generator=generator(seed, stream, step))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=generator(seed, stream, step)))
    assert not torch.equal(first, torch.rand(3, generator=generator(seed + 1, stream, step)))


def test_torch_keeps_32_bits_of_a_seed():
    """As generator's docstring says."""
    first, second, other = (
        torch.rand(3, generator=torch.Generator().manual_seed(7 + more))
        for more in (0, 2**32, 2**31)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_dropped_labels_become_the_null_class():
    label = torch.tensor([4, 5, 6])
    dropped = torch.tensor([False, True, False])
    assert drop_labels(label, dropped).tolist() == [4, -1, 6]
    assert label.tolist() == [4, 5, 6]


def test_mirroring_is_a_function_of_the_place_in_the_global_batch(config):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, flip=True))
    image = torch.randn(8, 3, 2, 5)
    whole = mirror(image, config, 3, slice(0, 8))
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(whole, image, strict=True)]
    assert 0 < sum(mirrored) < 8
    for row in range(8):
        if not mirrored[row]:
            assert torch.equal(whole[row], image[row])
    for first in range(1, 8):
        assert torch.equal(mirror(image[first:], config, 3, slice(first, 8)), whole[first:])
    assert not torch.equal(mirror(image, config, 4, slice(0, 8)), whole)


def test_images_that_may_not_be_mirrored_are_not(config):
    image = torch.randn(8, 3, 2, 5)
    assert not config.data.flip
    assert torch.equal(mirror(image, config, 3, slice(0, 8)), image)
