"""``Evaluator``: samples that arrive in pieces score as ``evaluate`` scores their files."""

import re
from pathlib import Path

import pytest
import torch

from genmetrics import BadInput, Evaluator, UsageError, evaluate, get_extractor, open_images
from genmetrics.evaluation.protocols import choose_protocol
from genmetrics.evaluation.reference import Reference, open_reference
from genmetrics.features.stats_files import save_stats

README = Path(__file__).parents[3] / "packages/genmetrics/README.md"


@pytest.fixture(scope="module")
def extractor():
    return get_extractor("efflite0")


@pytest.fixture
def sets(emoji, write_images):
    samples, real = write_images(emoji[:23], "samples"), write_images(emoji[23:42], "real")
    return open_images(samples), open_images(real)


def as_tensor(images):
    return torch.from_numpy(images).movedim(-1, 1)


@pytest.mark.parametrize("pieces", [[23], [1, 5, 17]], ids=["at once", "in pieces"])
def test_scores_are_bit_for_bit_those_of_the_files(sets, extractor, emoji, pieces):
    protocol = choose_protocol(
        "efflite0", None, metrics=("fid", "pr", "dc", "is", "kid"), kid_subset_size=7
    )
    wanted = evaluate(*sets, extractor=extractor, protocol=protocol, seed=3, batch_size=10)
    evaluator = Evaluator(sets[1], extractor=extractor, protocol=protocol, seed=3, batch_size=10)
    for piece in as_tensor(emoji[:23].copy()).split(pieces):
        evaluator.update(piece)
    found = evaluator.result()
    assert found.scores == wanted.scores
    assert (found.samples.kind, found.samples.n) == ("stream", 23)


def test_the_network_sees_the_batches_that_evaluate_makes(sets, extractor, emoji):
    """Other batches would change features by rounding, on some devices."""
    seen = []
    handle = extractor.network.register_forward_pre_hook(lambda _, x: seen.append(x[0].clone()))
    try:
        evaluate(*sets, extractor=extractor, batch_size=10)
        wanted, seen = seen, []
        evaluator = Evaluator(sets[1], extractor=extractor, metrics=("fid",), batch_size=10)
        for piece in as_tensor(emoji[:23].copy()).split([1, 5, 17]):
            evaluator.update(piece)
        evaluator.result()
    finally:
        handle.remove()
    assert [len(batch) for batch in wanted] == [10, 10, 3, 10, 9]
    order = [0, 1, 3, 4, 2]  # the last samples wait for the result, and so does the reference
    for batch, number in zip(seen, order, strict=True):
        assert torch.equal(batch, wanted[number])
        assert batch.stride() == wanted[number].stride()


def test_a_result_does_not_end_the_stream_and_a_reset_begins_another(sets, extractor, emoji):
    evaluator = Evaluator(sets[1], extractor=extractor, metrics=("fid",), batch_size=10)
    evaluator.update(as_tensor(emoji[:13].copy()))
    early = evaluator.result()
    evaluator.update(as_tensor(emoji[13:23].copy()))
    late = evaluator.result()
    assert (early["fd_efflite0"].n_samples, late["fd_efflite0"].n_samples) == (13, 23)
    wanted = evaluate(*sets, extractor=extractor, batch_size=10)
    assert late["fd_efflite0"].value == wanted["fd_efflite0"].value
    evaluator.reset()
    assert len(evaluator) == 0
    evaluator.update(as_tensor(emoji[:13].copy()))
    assert evaluator.result().scores == early.scores


def test_arrays_are_taken_and_a_buffer_may_be_used_again(sets, extractor, emoji):
    wanted = evaluate(*sets, extractor=extractor, batch_size=10)
    evaluator = Evaluator(sets[1], extractor=extractor, metrics="fid", batch_size=10)
    for rows in (range(5), range(5, 23)):
        buffer = emoji[rows].copy()
        evaluator.update(buffer)
        buffer[:] = 0
    assert evaluator.result().scores == wanted.scores


def test_the_reference_passes_the_network_once(sets, extractor, emoji):
    passes = []
    handle = extractor.network.register_forward_hook(lambda _, images, __: passes.append(images))
    try:
        evaluator = Evaluator(sets[1], extractor=extractor, metrics=("fid",), batch_size=19)
        for _ in range(2):
            evaluator.update(as_tensor(emoji[:19].copy()))
            evaluator.result()
    finally:
        handle.remove()
    assert len(passes) == 3


def test_copies_and_plain_samples_are_remarked(sets, extractor, emoji):
    evaluator = Evaluator(sets[1], extractor=extractor, metrics="fid", batch_size=3)
    images = as_tensor(emoji[:7].copy())
    images[4], images[6] = 7, images[0]
    evaluator.update(images)
    for _ in range(2):
        told = [each.message for each in evaluator.result().remarks if each.code == "INPUT"]
        plain, copies = told
        assert "1 of 7 images in the stream have one colour throughout: 4." in plain
        assert "1 of 7 images in the stream are exact copies of others: 6 = 0." in copies
    evaluator.reset()
    evaluator.update(as_tensor(emoji[:5].copy()))
    assert "INPUT" not in [each.code for each in evaluator.result().remarks]


def test_statistics_are_a_reference_too(sets, extractor, emoji, tmp_path):
    from genmetrics import StatsAccumulator, extract_features

    features = extract_features(sets[1], extractor)
    stats = StatsAccumulator(1280).update(features).finalize()
    save_stats(tmp_path / "real.npz", {"features": stats})
    reference = open_reference(tmp_path / "real.npz")
    assert isinstance(reference, Reference)
    evaluator = Evaluator(reference, extractor=extractor, metrics=("fid",))
    evaluator.update(as_tensor(emoji[:5].copy()))
    assert evaluator.result()["fd_efflite0"].n_ref == 19


def test_what_cannot_be_scored_is_refused_before_the_first_sample(sets, extractor):
    with pytest.raises(UsageError, match="inception for sfid"):
        Evaluator(sets[1], extractor=extractor, metrics=("sfid",))
    with pytest.raises(UsageError, match="batch size of at least 1; got 0"):
        Evaluator(sets[1], extractor=extractor, batch_size=0)


def test_a_stream_of_less_than_two_images_is_refused(sets, extractor):
    evaluator = Evaluator(sets[1], extractor=extractor)
    with pytest.raises(BadInput, match="at least 2 images in -; got 0"):
        evaluator.result()


def test_readme_s_training_loop_runs(write_images, emoji, capsys, monkeypatch, tmp_path):
    (example,) = re.findall(
        r"```python\n(from genmetrics import Evaluator.*?)```", README.read_text(), re.S
    )
    write_images(emoji[:7], "real")
    monkeypatch.chdir(tmp_path)
    batches = as_tensor(emoji[:6].copy()).split(3)
    exec(compile(example, "README.md", "exec"), {"sample_batches": lambda: batches})
    assert "fd_efflite0" in capsys.readouterr().out
