import dataclasses

import pytest
import torch

from mim_encoder import MaskRatio
from mimflow_train.config.overrides import override
from mimflow_train.evaluation.reconstruction import encode
from mimflow_train.evaluation.selection import drawn_labels, judged_mask, spread_labels
from mimflow_train.model import MIMFlow


@pytest.mark.parametrize("count", [3, 7, 10, 25, 36])
def test_labels_beyond_a_multiple_are_spread_over_the_classes(count):
    label = torch.arange(5).repeat_interleave(2)
    drawn = spread_labels(label, count).bincount(minlength=5)
    assert drawn.sum() == count
    assert drawn.max() - drawn.min() <= 1


def test_samples_of_a_file_are_in_no_order_of_classes():
    label = torch.arange(10).repeat_interleave(50)
    drawn = drawn_labels(label, 500, torch.Generator().manual_seed(3))
    assert torch.equal(drawn.sort().values, label)
    assert len(drawn[:50].unique()) > 5


def test_images_that_are_judged_have_a_share_of_hidden_patches_each(config, data):
    config = dataclasses.replace(config, mask=MaskRatio(low=0.1, high=0.9, law="uniform"))
    masked = encode(MIMFlow(config.model), config, data.held_out.images.pixels, "judged").masked
    assert len(masked.sum(1).unique()) > 2


def test_images_whose_hidden_patches_are_dropped_share_one_share(config):
    changes = ["model.encoder.hidden_patches=dropped", "model.encoder.bottleneck=mae"]
    dropped = override(config, [*changes, "mask.low=0.75", "mask.high=0.75"])  # of 16
    assert judged_mask(config).per_sample
    assert not judged_mask(dropped).per_sample
