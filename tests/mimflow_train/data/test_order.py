from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimflow_train.data.order import EpochOrder, EvenClassOrder

FEW = settings(derandomize=True, deadline=None, max_examples=20)


@FEW
@given(st.integers(1, 30), st.integers(0, 5))
def test_epoch_order_shows_every_image_once_an_epoch(num_images, seed):
    order = EpochOrder(num_images, seed)
    for epoch in range(2):
        shown = [order[epoch * num_images + rank] for rank in range(num_images)]
        assert sorted(shown) == list(range(num_images))


@FEW
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 5))
def test_even_order_shows_each_class_equally_often(labels, seed):
    label = torch.tensor(labels)
    order = EvenClassOrder(label, seed)
    num_classes = len(set(labels))
    shown = [labels[order[position]] for position in range(7 * num_classes)]
    assert set(Counter(shown).values()) == {7}


def test_even_order_shows_all_of_a_class_before_any_again():
    labels = torch.tensor([0, 0, 0, 1])
    order = EvenClassOrder(labels, 0)
    of_first_class = [i for i in (order[p] for p in range(12)) if labels[i] == 0]
    assert sorted(of_first_class[:3]) == sorted(of_first_class[3:]) == [0, 1, 2]


def test_order_is_the_same_from_any_start(data):
    whole = EvenClassOrder(data.train.labels, 0)
    all_of_it = [whole[p] for p in range(40)]
    late = EvenClassOrder(data.train.labels, 0)
    assert [late[p] for p in range(23, 40)] == all_of_it[23:]
