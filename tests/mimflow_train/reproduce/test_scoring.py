"""What scores of a run are asked for."""

import dataclasses
from types import SimpleNamespace

import pytest

from genmetrics import get_extractor
from mimflow_train.reproduce import scoring
from mimflow_train.reproduce.paper import TABLE1
from mimflow_train.reproduce.tables import score_columns
from mimflow_train.reproduce.trained import trained


@pytest.mark.parametrize(
    ("extractor", "metrics"),
    [
        ("inception", ("fid", "sfid", "is", "pr")),
        ("efflite0", ("fid", "is", "pr")),
        ("timm:resnet18", ("fid", "pr")),
    ],
)
def test_spatial_features_are_inceptions_alone(extractor, metrics, session, monkeypatch, tmp_path):
    asked = []

    def evaluate(*_, protocol, **__):
        asked.append(protocol.metrics)
        return SimpleNamespace(scores={"sfid": SimpleNamespace(value=2.0)})

    monkeypatch.setattr(scoring, "evaluate", evaluate)
    session = dataclasses.replace(session, extractor_name=extractor)
    vars(session)["extractor"] = get_extractor("efflite0")
    found = scoring._samples(session, trained(session, session.base), None, tmp_path)
    assert found == {"sfid": 2.0}
    assert asked == [metrics]


def test_table_1_has_the_papers_sfid_with_guidance():
    found = {row: paper["sfid"] for row, paper in TABLE1.items() if "sfid" in paper}
    assert found == {
        "starflow guided": 20.54,
        "softplus removed guided": 18.98,
        "gated attention guided": 18.64,
    }
    assert "sfid" in {each.key for each in score_columns("inception")}
