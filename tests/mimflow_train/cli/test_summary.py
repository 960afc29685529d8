import dataclasses
from pathlib import Path

import pytest

from mimflow_train.cli.summary import summary
from mimflow_train.evaluation.summary import Evaluation

SCORES = {each.name: 0.5 for each in dataclasses.fields(Evaluation)} | {
    "num_images": 16,
    "class_num_samples": 60,
}


@pytest.mark.parametrize(
    ("posterior", "flow", "gaussian", "said"),
    [
        (100.0, 120.0, 200.0, "0.80   (Gaussian - flow) / (Gaussian - posterior)"),
        (100.0, 90.0, 200.0, "all   samples score better than what a perfect prior would reach"),
        (100.0, 90.0, 95.0, "none   Gaussian latents decode as well as posterior ones"),
    ],
)
def test_a_gap_that_is_none_is_no_number(config, posterior, flow, gaussian, said):
    distances = {"fd_posterior": posterior, "fd_flow": flow, "fd_gaussian": gaussian}
    closed = 0.8 if gaussian > posterior else None
    scores = Evaluation(**SCORES | distances | {"gap_closed": closed})
    text = summary(scores, None, config, Path("a run"), 60.0)
    assert "mimflow-sample 'a run' --num 12" in text
    (line,) = (each for each in text.splitlines() if "gap closed by the flow" in each)
    assert line.endswith(f" {said}")
