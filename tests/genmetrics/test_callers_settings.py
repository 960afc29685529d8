"""Scores are what they are, whatever modes of torch the code around them runs in."""

import pytest
import torch
from torch import nn

from genmetrics import (
    Extractor,
    UsageError,
    cmmd,
    extract,
    frechet_distance_from_features,
    inception_score,
    jacobian_spectrum,
    kid,
    knn_accuracy,
    linear_probe,
    logistic_probe,
    precision_recall,
    tuned_logistic_probe,
)

ROWS, LABELS = 60, torch.arange(60) % 3
SCORES = {
    **{
        f"linear-probe-{preset}": lambda x, preset=preset: (
            linear_probe(
                (x, LABELS), (x.flip(0), LABELS.flip(0)), preset, epochs=12, batch_size=20
            ).runs
        )
        for preset in ("repa", "mae", "mimflow-tools")
    },
    "logistic-probe": lambda x: logistic_probe(x, LABELS).weight.tolist(),
    "tuned-logistic-probe": lambda x: tuned_logistic_probe(x, LABELS).probe.bias.tolist(),
    "knn": lambda x: knn_accuracy((x[7:], LABELS[7:]), (x[:7], LABELS[:7]), k=3),
    "kid": lambda x: kid(x, ROWS_OF_REAL, subset_size=20),
    "kid-of-the-second": lambda x: kid(ROWS_OF_REAL, x, subset_size=20),
    "cmmd": lambda x: cmmd(x, ROWS_OF_REAL),
    "cmmd-of-the-second": lambda x: cmmd(ROWS_OF_REAL, x),
    "frechet": lambda x: frechet_distance_from_features(x, ROWS_OF_REAL),
    "precision-recall": lambda x: precision_recall(x, ROWS_OF_REAL),
    "inception-score": inception_score,
}


def normal(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


ROWS_OF_REAL = normal(ROWS, 5, seed=1)
each_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@each_score
def test_features_with_a_graph_score_as_others_and_give_their_network_no_gradient(score):
    network = nn.Linear(4, 5)
    x = network(normal(ROWS, 4))
    assert score(x) == score(x.detach())
    assert network.weight.grad is None
    x.sum().backward()


@each_score
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_made_in_inference_mode_score_as_others_in_and_out_of_it(score, dtype):
    x = normal(ROWS, 5, dtype=dtype)
    wanted = score(x)
    with torch.inference_mode():
        made_there = x.clone()
        assert score(made_there) == wanted
        assert score(x) == wanted
    assert score(made_there) == wanted


def test_a_fitted_probe_of_inference_mode_can_be_used_in_a_graph():
    with torch.inference_mode():
        probe = logistic_probe(normal(ROWS, 5), LABELS)
    assert not any(
        part.is_inference()
        for part in (probe.classes, probe.shift, probe.scale, probe.weight, probe.bias)
    )


@pytest.mark.parametrize("method", ["exact", "gkl", "power"])
@pytest.mark.parametrize("jvp", ["forward", "differences"])
def test_a_spectrum_of_inference_mode_is_that_of_others(method, jvp):
    x, network = normal(2, 3, dtype=torch.float64), nn.Linear(3, 3).double()

    def inverse(y):
        return torch.linalg.solve(network.weight, (y - network.bias).T).T

    def spectrum(x):
        return jacobian_spectrum(network, x, inverse=inverse, method=method, jvp=jvp).to_dict()

    wanted = spectrum(x)
    with torch.inference_mode():
        assert spectrum(x) == spectrum(x.clone()) == wanted


def test_weights_made_in_inference_mode_have_no_spectrum_and_are_named():
    with torch.inference_mode():
        network = nn.Linear(3, 3).double()
    message = "Expected f of weights made outside inference mode; got .* Build or load f outside"
    with pytest.raises(UsageError, match=message):
        jacobian_spectrum(network, normal(2, 3))


@each_score
def test_a_default_of_float64_changes_no_score(score, in_float64):
    x = normal(ROWS, 5)
    wanted = score(x)
    with in_float64():
        assert score(x) == wanted


@pytest.mark.parametrize("own", [True, False], ids=["own", "efflite0"])
def test_a_default_of_float64_changes_no_features(own, in_float64):
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(27, 5))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=generator)

    def features():
        mine = Extractor.of(network, name="mine", float_range=(0.0, 1.0), side=24)
        return extract(images, mine if own else "efflite0")["features"]

    wanted = features()
    with in_float64():
        found = features()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
