"""Images in memory: a set like any other."""

import numpy as np
import pytest
import torch
from PIL import Image

from genmetrics import (
    BadInput,
    Evaluator,
    Processes,
    UsageError,
    evaluate,
    extract,
    get_extractor,
    open_images,
    pack_images,
    write_npz,
)
from genmetrics.images.sources import ImageSource, as_images

FORMS = {
    "channels last": lambda images: images,
    "channels first": lambda images: images.transpose(0, 3, 1, 2),
    "read-only": lambda images: np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
    "tensor": lambda images: torch.from_numpy(images.copy()).movedim(-1, 1),
    "contiguous tensor": lambda images: torch.from_numpy(images.copy()).movedim(-1, 1).contiguous(),
}


@pytest.fixture(scope="module")
def extractor():
    return get_extractor("efflite0")


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    return request.param


def test_they_are_read_channels_last_in_their_order(emoji, form):
    source = as_images(form(emoji[:5, :, :40]))
    assert isinstance(source, ImageSource)
    assert (str(source.path), source.kind, len(source)) == ("memory", "memory", 5)
    for index in range(5):
        assert source.read(index).flags.c_contiguous
        assert np.array_equal(source.read(index), emoji[index, :, :40])
    assert np.array_equal(source.select([3, 1]).read(1), emoji[1, :, :40])


def test_their_fingerprint_is_of_pixels_order_and_size(emoji, form):
    wanted = as_images(emoji[:5].copy()).fingerprint()
    source = as_images(form(emoji[:5]))
    assert source.fingerprint() == wanted
    others = [
        source.select([1, 0, 2, 3, 4]).fingerprint(),
        source.select([0, 1, 2, 3]).fingerprint(),
        as_images(emoji[:5].reshape(5, 36, 144, 3)).fingerprint(),
    ]
    assert len({wanted, *others}) == 4


def test_scores_are_bit_for_bit_those_of_the_files(emoji, write_images, extractor, form):
    samples, real = emoji[:7], emoji[7:18]
    files = [open_images(write_images(each, f"{len(each)}")) for each in (samples, real)]
    wanted = evaluate(*files, extractor=extractor, batch_size=4)
    found = evaluate(form(samples), form(real), extractor=extractor, batch_size=4)
    assert found.scores == wanted.scores
    assert (found.samples.n, found.reference.n, found.reference.kind) == (7, 11, "memory")
    evaluator = Evaluator(form(real), extractor=extractor, metrics="fid", batch_size=4)
    evaluator.update(torch.from_numpy(samples.copy()).movedim(-1, 1))
    assert evaluator.result().scores == wanted.scores


def test_arrays_and_their_processes_give_the_features_of_tensors(emoji, extractor):
    wanted = extract(FORMS["tensor"](emoji[:5]), extractor)
    found = extract(emoji[:5], extractor, workers=Processes(1))
    assert torch.equal(found["features"], wanted["features"])


def test_copies_are_remarked(emoji, extractor):
    report = evaluate(emoji[[0, 1, 0]], emoji[2:6], extractor=extractor)
    told = [each.message for each in report.remarks if each.code == "INPUT"]
    assert told[0].startswith("1 of 3 images in memory are exact copies of others: 2 = 0.")


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 8, 9, 3)),
        np.zeros((8, 9, 3), np.uint8),
        np.zeros((2, 8, 9), np.uint8),
        torch.zeros(2, 8, 9, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 9),
    ],
    ids=["floats", "one", "gray", "tensor of channels last", "tensor of floats"],
)
def test_other_arrays_are_refused_with_what_makes_them_images(wrong):
    with pytest.raises(BadInput, match=r"Expected images as a uint8 tensor .* Pass .*images"):
        as_images(wrong)


def test_tensors_are_written_as_arrays_are(emoji, form, tmp_path):
    write_npz(emoji[:4], tmp_path / "wanted.npz", np.arange(4), count=4)
    write_npz(form(emoji[:4]), tmp_path / "found.npz", torch.arange(4))
    assert (tmp_path / "found.npz").read_bytes() == (tmp_path / "wanted.npz").read_bytes()
    pack_images(as_images(form(emoji[:4])), tmp_path / "packed.npz")
    assert np.array_equal(np.load(tmp_path / "packed.npz")["arr_0"], emoji[:4])


def test_tensors_may_be_written_one_by_one(emoji, tmp_path):
    images = FORMS["tensor"](emoji[:4])
    write_npz((image for image in images), tmp_path / "x.npz", count=4)
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], emoji[:4])
    with pytest.raises(UsageError, match="Expected count"):
        write_npz((image for image in images), tmp_path / "y.npz")
    with pytest.raises(BadInput, match=r"got float32 \(1, 3, 72, 72\)\. Pass \(255"):
        write_npz([images[0].float()], tmp_path / "y.npz")


def test_pillow_s_images_are_written_as_arrays_are(emoji, tmp_path):
    pictures = [Image.fromarray(image) for image in emoji[:4]]
    write_npz(pictures, tmp_path / "x.npz")
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], emoji[:4])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "YCbCr"])
def test_pillow_s_images_of_other_modes_are_refused_with_what_makes_them_rgb(mode, tmp_path):
    picture = Image.new("RGB", (5, 4))
    wanted = rf"got an image of mode {mode} as number 1\. Pass image\.convert\('RGB'\)\."
    with pytest.raises(BadInput, match=wanted):
        write_npz([picture, picture.convert(mode)], tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_whatever_gives_itself_as_an_array_is_written(emoji, tmp_path):
    class Foreign:  # as JAX's arrays
        def __array__(self, dtype=None, copy=None):
            return emoji[0]

    write_npz([Foreign()], tmp_path / "x.npz")
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], emoji[:1])


def test_what_is_no_image_is_not_written(tmp_path):
    with pytest.raises(BadInput, match=r"images \(h, w, 3\) of one size; got a str as number 0\."):
        write_npz(["1.png"], tmp_path / "x.npz")
