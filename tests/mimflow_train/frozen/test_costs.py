import pytest

from mimflow_train.frozen.costs import frozen_costs


def test_costs_at_256_px_are_those_of_the_fact_sheet():
    costs = {each.name: (each.parameters / 1e6, each.gmac) for each in frozen_costs(256)}
    assert costs == {
        "DINOv2-B/16@256": pytest.approx((85.9, 23.22), rel=4e-3),
        "CLIP-B/16@256": pytest.approx((86.2, 23.22), rel=4e-3),
        "VGG16 to relu5_3@256": pytest.approx((14.71, 20.04), rel=4e-3),
        "ConvNeXt-S@224": pytest.approx((50.2, 8.71), rel=4e-3),
    }


def test_only_the_trunk_of_logits_ignores_the_image_size():
    small, large = frozen_costs(32), frozen_costs(64)
    ratios = [b.gmac / a.gmac for a, b in zip(small, large, strict=True)]
    assert ratios == [pytest.approx(4, rel=0.25)] * 3 + [1]
