"""Scores are those of float32, whatever precision the rest of the process works in."""

import pytest
import torch
from tests.scripts import run_script

from genmetrics import Evaluator, Extractor, extract_features, get_extractor, precision_recall
from genmetrics.full_precision import full_float32
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
    return own().network.tried_sha256


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


PRECISIONS = """
import itertools, multiprocessing
import torch
from contextlib import nullcontext
from genmetrics.full_precision import full_float32

backends, cpu = torch.backends, torch.device("cpu")
PLACES = {
    "all": backends,
    "cudnn": backends.cudnn,
    "matmul": backends.cuda.matmul,
    "conv": backends.cudnn.conv,
    "rnn": backends.cudnn.rnn,
    "cpu matmul": backends.mkldnn.matmul,
    "cpu conv": backends.mkldnn.conv,
}
LEGACY = (
    torch.get_float32_matmul_precision,
    lambda: backends.cudnn.allow_tf32,
    lambda: backends.cuda.matmul.allow_tf32,
)
CHOICES = [
    ("legacy", "high"),
    ("all", "tf32"),
    ("all", "ieee"),
    ("matmul", "tf32"),
    ("matmul", "ieee"),
    ("conv", "tf32"),
    ("cudnn", "tf32"),
    ("cpu matmul", "bf16"),
    ("legacy cudnn", False),
    ("legacy", "highest"),
]


def choose(place, value):
    if place == "legacy":
        torch.set_float32_matmul_precision(value)
    elif place == "legacy cudnn":
        backends.cudnn.allow_tf32 = value
    else:
        PLACES[place].fp32_precision = value


def state():
    found = [place.fp32_precision for place in PLACES.values()]
    for legacy in LEGACY:
        try:
            found.append(legacy())
        except RuntimeError:  # torch's, where the one way contradicts the other
            found.append("mixed")
    return found


def states(block, choices):
    found = []
    for choice in choices:
        choose(*choice)
        with block(cpu):
            if block is full_float32:
                with full_float32(cpu):
                    pass
                assert {place.fp32_precision for place in PLACES.values()} == {"ieee"}, choices
                assert torch.get_float32_matmul_precision() == "highest"
        found.append(state())
    return found


cases = list(itertools.permutations(CHOICES, 2))
fork = multiprocessing.get_context("fork")
with fork.Pool(1, maxtasksperchild=1) as pool:  # some settings cannot be put back by hand
    without, within = (
        pool.starmap(states, [(block, case) for case in cases], chunksize=1)
        for block in (nullcontext, full_float32)
    )
for case, wanted, found in zip(cases, without, within, strict=True):
    assert found == wanted, (case, wanted, found)
"""


def test_tf32_chosen_in_either_way_is_overruled_and_comes_back():
    run = run_script(PRECISIONS)
    assert run.returncode == 0, run.stderr


def test_settings_come_back_when_the_last_of_two_threads_is_done(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    first, second = (full_float32(torch.device("meta")) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.benchmark
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.benchmark
