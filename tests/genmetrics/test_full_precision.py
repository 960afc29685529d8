"""Scores are those of float32, whatever precision the rest of the process works in."""

import pytest
import torch

from genmetrics import Evaluator, Extractor, extract_features, get_extractor, precision_recall
from genmetrics.probes.knn import knn_accuracy
from genmetrics.probes.training import linear_probe


def rows(n, seed=0):
    return torch.randn(n, 29, generator=torch.Generator().manual_seed(seed))


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)


def own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 7, 8, 8), torch.nn.Flatten(), torch.nn.Linear(112, 5)
    return Extractor.of(torch.nn.Sequential(*layers), name="own", float_range=(0.0, 1.0), side=32)


def own_digest():
    return own().weights_sha256


def labelled(n, seed):
    return rows(n, seed), torch.arange(n) % 3


def logits():
    extractor = get_extractor("efflite0")
    return extractor.logits(extractor(images(2))["features"])


@pytest.mark.parametrize(
    "score",
    [
        lambda: extract_features(images(3), "efflite0"),
        logits,
        lambda: extract_features(images(3), own()),
        lambda: own()(images(3))["features"],
        own_digest,
        lambda: precision_recall(rows(211), rows(103, 1), density_coverage=True),
        lambda: precision_recall(rows(211), rows(103, 1), precision="adm-fp16"),
        lambda: knn_accuracy(labelled(103, 0), labelled(211, 1), 5),
        lambda: linear_probe(labelled(103, 0), labelled(211, 1), "mimflow-tools", epochs=3),
    ],
    ids=["efflite0", "logits", "own", "call", "digest", "pr", "adm", "knn", "probe"],
)
def test_mixed_precision_around_a_score_changes_nothing(score):
    wanted = score()
    with torch.autocast("cpu", torch.bfloat16):
        found = score()
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)
    else:
        assert found == wanted


def test_mixed_precision_does_not_reach_the_cache(tmp_path):
    from genmetrics.features.extraction import extract

    with torch.autocast("cpu", torch.bfloat16):
        extract(images(3), own(), cache=tmp_path)
    assert torch.equal(
        extract(images(3), own(), cache=tmp_path)["features"], own()(images(3))["features"]
    )


def test_an_evaluator_works_within_a_validation_step_of_mixed_precision():
    def scores():
        evaluator = Evaluator(images(7), extractor="efflite0", metrics=("fid", "pr"), batch_size=3)
        evaluator.update(images(8, 1))
        return evaluator.result().scores

    wanted = scores()
    with torch.autocast("cpu", torch.bfloat16):
        assert scores() == wanted
