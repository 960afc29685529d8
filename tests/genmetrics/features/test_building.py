"""Statistics from one pass that keeps no features: those of all features, in little memory."""

import threading
import time

import pytest
import torch

from genmetrics import (
    Extractor,
    NumericalFailure,
    StatsAccumulator,
    extract,
    extract_stats,
)
from genmetrics.features import building, ordered, stats
from genmetrics.features.ordered import extract_in_order

N = 50


class Pixels(torch.nn.Module):
    def forward(self, images):
        flat = images.flatten(1).float()
        return {"features": flat[:, :4] / 7, "spatial": flat[:, :3] / 9}


@pytest.fixture
def extractor():
    return Extractor(
        "pixels",
        outputs={"features": 4, "spatial": 3},
        preprocess_id="none",
        weights_sha256="1",
        network=Pixels().eval(),
        device=torch.device("cpu"),
    )


@pytest.fixture
def images():
    return torch.randint(0, 256, (N, 3, 2, 2), dtype=torch.uint8)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("together", [1, 7, 16, 50, 4096])
def test_they_are_those_of_all_features_bit_for_bit(
    extractor, images, exact, together, monkeypatch
):
    for module in (building, stats):
        monkeypatch.setattr(module, "ROWS_PER_UPDATE", together)
    seen = []
    found = extract_stats(images, extractor, exact=exact, batch_size=2, progress=seen.append)
    assert seen == [2] * 25
    for name, features in extract(images, extractor).items():
        wanted = StatsAccumulator(features.shape[1], exact=exact).update(features).finalize()
        assert found[name].n == N
        assert torch.equal(found[name].mean, wanted.mean)
        assert torch.equal(found[name].cov, wanted.cov)


def test_no_features_are_kept_that_were_handed_over(extractor, images, monkeypatch):
    held, finish = [], ordered._Run._finish

    def counted(run, *rest):
        held.append(len(run.parts))
        finish(run, *rest)

    monkeypatch.setattr(ordered._Run, "_finish", counted)
    extract_in_order(images, extractor, lambda *_: None, batch_size=1)
    assert held == [1] * N


def test_a_slow_device_is_waited_for(extractor, images, monkeypatch):
    first, both, taken = threading.current_thread(), threading.Barrier(2, timeout=60), []
    forward, threads = Pixels.forward, {}

    def unequal(self, batch):
        thread = threading.current_thread()
        assert thread is not first
        if thread not in threads:
            threads[thread] = len(threads)
            both.wait()
        if threads[thread] == 0:
            time.sleep(0.02)
        return forward(self, batch)

    whole = extract(images, extractor, batch_size=1)
    monkeypatch.setattr(Pixels, "forward", unequal)

    def take(rows, part):
        taken.append(rows)
        for name, values in part.items():
            assert torch.equal(values, whole[name][rows.start : rows.stop])

    extract_in_order(images, extractor, take, batch_size=1, devices=("cpu", "cpu"))
    assert taken == [range(start, min(start + 8, N)) for start in range(0, N, 8)]


def test_cached_shards_take_their_turn(extractor, images, tmp_path):
    first = extract_stats(images, extractor, batch_size=2, cache=tmp_path)
    middle = sorted(tmp_path.glob("*/*.npz"))[1]
    middle.unlink()
    taken = []
    extract_in_order(
        images, extractor, lambda rows, _: taken.append(rows), batch_size=2, cache=tmp_path
    )
    assert taken == [range(0, 16), range(16, 32), range(32, 48), range(48, 50)]
    assert middle.exists()
    again = extract_stats(images, extractor, batch_size=2, cache=tmp_path)
    assert all(torch.equal(first[name].cov, again[name].cov) for name in first)


def test_rows_that_are_not_finite_are_named_by_their_places(extractor, images, monkeypatch):
    images = images.clamp(max=254)
    images[[3, 40], 0, 0, 0] = 255

    def log(self, batch):
        flat = batch.flatten(1).float()
        return {"features": (255 - flat[:, :4]).log(), "spatial": flat[:, :3]}

    monkeypatch.setattr(Pixels, "forward", log)
    with pytest.raises(NumericalFailure, match=r"in 2 of 50 rows \(3, 40\)"):
        extract_stats(images, extractor, batch_size=2)
