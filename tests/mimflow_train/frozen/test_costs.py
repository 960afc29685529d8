import dataclasses

import pytest

from mimflow_train.config import DecoderPhaseConfig, LossConfig
from mimflow_train.config.overrides import override
from mimflow_train.frozen.costs import frozen_costs
from mimflow_train.recipes import paper, tiny


def test_costs_at_256_px_are_those_of_the_fact_sheet():
    config = dataclasses.replace(
        paper("L", ("a",), "folder"), decoder_phase=DecoderPhaseConfig.preset("rae")
    )
    costs = {each.name: (each.parameters / 1e6, each.gmac) for each in frozen_costs(config)}
    assert costs == {
        "DINOv2-B/16@256": pytest.approx((85.9, 23.22), rel=4e-3),
        "CLIP-B/16@256": pytest.approx((86.2, 23.22), rel=4e-3),
        "VGG16 to relu5_3@256": pytest.approx((14.71, 20.04), rel=4e-3),
        "ConvNeXt-S@224": pytest.approx((50.2, 8.71), rel=4e-3),
        "DINO-S/8@224": pytest.approx((21.67, 22.44), rel=4e-3),
    }


def test_only_what_a_run_uses_is_counted():
    config = tiny()
    assert [(each.name, each.passes) for each in frozen_costs(config)] == [
        ("EfficientNet-Lite0 to stride 16@64", 1),
        ("EfficientNet-Lite0 to stride 16@64", 3),
    ]
    alone = dataclasses.replace(config, loss=LossConfig(perceptual=0.0, feature=0.0))
    assert frozen_costs(alone) == []
    judged = override(tiny(), ["decoder_phase=rae"])
    assert [(each.name, each.passes) for each in frozen_costs(judged)][2:] == [("DINO-S/8@224", 4)]
