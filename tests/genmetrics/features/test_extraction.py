import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from genmetrics import (
    BadInput,
    Extractor,
    UsageError,
    extract_features,
    frechet_distance_from_features,
    get_extractor,
    open_images,
)
from genmetrics.features.extraction import extract
from genmetrics.images.decoding import Processes


@pytest.fixture(scope="module")
def extractor():
    return get_extractor("efflite0")


def as_tensor(images):
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)


def blurred(image):
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))


def shuffled_patches(image, size=9):
    rng = np.random.default_rng(0)
    grid = image.reshape(72 // size, size, 72 // size, size, 3).swapaxes(1, 2)
    patches = rng.permutation(grid.reshape(-1, size, size, 3))
    return patches.reshape(grid.shape).swapaxes(1, 2).reshape(image.shape)


def test_damage_is_ranked(extractor, emoji):
    first, second = emoji[:60], emoji[60:]
    reference = extract_features(as_tensor(first), extractor)

    def distance(images):
        return frechet_distance_from_features(
            extract_features(as_tensor(images), extractor), reference
        ).value

    clean = distance(second)
    blur = distance([blurred(image) for image in second])
    shuffle = distance([shuffled_patches(image) for image in second])
    assert 1.1 * clean < blur
    assert 1.1 * blur < shuffle


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_folder_and_tensor_of_the_same_images_agree(
    extractor, emoji, write_images, tmp_path, save
):
    images = emoji[:11]
    save(tmp_path / "x.npz", images)
    sources = (
        open_images(write_images(images)),
        open_images(tmp_path / "x.npz"),
        as_tensor(images),
    )
    folder, npz, tensor = (extract_features(source, extractor, 4) for source in sources)
    assert torch.equal(folder, npz)
    assert torch.equal(folder, tensor)


def test_batch_size_changes_rounding_only(extractor, emoji):
    images = as_tensor(emoji[:7])
    once, one_by_one = (extract_features(images, extractor, size) for size in (64, 1))
    torch.testing.assert_close(once, one_by_one, atol=1e-4, rtol=1e-4)
    assert once.dtype == torch.float32
    assert once.shape == (7, 1280)


def test_mixed_sizes_keep_their_order(extractor, emoji, write_images):
    sizes = [(72, 72), (40, 30), (72, 72), (40, 30), (30, 40)]
    images = [
        np.array(Image.fromarray(image).resize(size))
        for image, size in zip(emoji, sizes, strict=False)
    ]
    together = extract_features(open_images(write_images(images)), extractor, 4)
    alone = torch.cat([extract_features(as_tensor([image]), extractor) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_progress_counts_every_image(extractor, emoji, write_images):
    counts = []
    extract_features(open_images(write_images(emoji[:7])), extractor, 3, counts.append)
    assert counts == [3, 3, 1]


def test_corrupt_image_in_a_later_batch_is_named(extractor, emoji, write_images):
    folder = write_images(emoji[:9])
    (folder / "7.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"7\.png"):
        extract_features(open_images(folder), extractor, 3)


def test_two_devices_give_the_features_of_one_bit_for_bit(extractor, emoji, write_images):
    source = open_images(write_images(emoji[:17]))
    threads, both = set(), threading.Barrier(2, timeout=60)

    def meet(*_):  # neither thread takes a second batch before the other has its first
        if (name := threading.current_thread().name) not in threads:
            threads.add(name)
            both.wait()

    one = extract(source, extractor, batch_size=2)
    hook = extractor.network.register_forward_pre_hook(meet)
    counts = []
    two = extract(source, extractor, batch_size=2, devices=("cpu", "cpu"), progress=counts.append)
    hook.remove()
    assert len(threads) == 2
    assert sum(counts) == 17
    assert torch.equal(one["features"], two["features"])


def test_one_failing_device_stops_the_others(extractor, emoji):
    passes, failing = [], threading.Event()

    def fail_in_the_second_thread(module, images):
        passes.append(1)
        if threading.current_thread().name.endswith("_1"):
            failing.set()
            raise ArithmeticError("broken network")
        assert failing.wait(60)
        time.sleep(0.02)

    hook = extractor.network.register_forward_pre_hook(fail_in_the_second_thread)
    with pytest.raises(ArithmeticError, match="broken network"):
        extract(as_tensor(emoji[:40]), extractor, batch_size=1, devices=("cpu", "cpu"))
    hook.remove()
    assert len(passes) < 20


def test_processes_decode_the_same_images(extractor, emoji, write_images):
    source = open_images(write_images(emoji[:7]))
    threads = extract(source, extractor, batch_size=3, workers=1)
    processes = extract(source, extractor, batch_size=3, workers=Processes(2))
    assert torch.equal(threads["features"], processes["features"])


def test_corrupt_image_is_named_by_processes_too(extractor, emoji, write_images):
    folder = write_images(emoji[:5])
    (folder / "4.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"4\.png"):
        extract(open_images(folder), extractor, batch_size=2, workers=Processes(1))


def test_all_outputs_come_from_one_pass(emoji):
    class Two(torch.nn.Module):
        passes = 0

        def forward(self, images):
            self.passes += 1
            pixels = images.float() / 255
            return {"colour": pixels.mean((2, 3)), "corner": pixels[:, 0, :5, 0]}

    two = Extractor("two", {"colour": 3, "corner": 5}, "x/255", "ab", Two(), torch.device("cpu"))
    images = as_tensor(emoji[:7])
    features = extract(images, two, batch_size=3)
    assert two.network.passes == 3
    assert {name: tuple(rows.shape) for name, rows in features.items()} == {
        "colour": (7, 3),
        "corner": (7, 5),
    }
    assert torch.equal(features["corner"], images[:, 0, :5, 0].float() / 255)
    assert torch.equal(extract_features(images, two), features["colour"])
    with pytest.raises(UsageError, match="with a classifier"):
        two.logits(features["colour"])


@pytest.mark.parametrize("devices", [(), ("cpu", "cpu")], ids=["here", "in threads"])
def test_features_of_a_user_s_network_keep_no_graph(emoji, devices):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, images):
            graphs.append(torch.is_grad_enabled())
            return {"own": self.linear(images.float().mean((2, 3)))}

    graphs = []
    own = Extractor("own", {"own": 2}, "none", "ab", Own().eval(), torch.device("cpu"))
    features = extract(as_tensor(emoji[:5]), own, batch_size=2, devices=devices)
    assert graphs == [False] * 3
    assert not features["own"].requires_grad


@pytest.mark.parametrize("devices", [(), ("cpu", "cpu")], ids=["here", "in threads"])
def test_a_network_in_training_is_used_in_eval_mode_and_left_as_it_was(emoji, devices):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5)
            self.frozen = torch.nn.BatchNorm1d(3)

        def forward(self, images):
            return {"own": self.frozen(self.drop(self.norm(images.float())).mean((2, 3)))}

    network, images = Own().eval(), as_tensor(emoji[:5])
    own = Extractor("own", {"own": 3}, "none", "ab", network, torch.device("cpu"))
    wanted = extract(images, own, batch_size=2)["own"]
    network.train()
    network.frozen.eval()  # as users keep it while the rest is trained
    before = {name: values.clone() for name, values in network.state_dict().items()}
    assert torch.equal(extract(images, own, batch_size=2, devices=devices)["own"], wanted)
    assert torch.equal(own(images[:2])["own"], wanted[:2])
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name]), name
    assert [name for name, each in network.named_modules() if each.training] == ["", "norm", "drop"]


def test_a_classifier_in_training_is_used_in_eval_mode(emoji):
    classifier = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.5))
    own = Extractor(
        "own", {"own": 3}, "none", "ab", torch.nn.Identity(), torch.device("cpu"), classifier
    )
    features = torch.eye(3)
    assert torch.equal(own.logits(features), classifier[0](features))
    assert classifier.training


def test_matrix_precision_of_the_process_is_restored(extractor, emoji):
    seen = []
    hook = extractor.network.register_forward_pre_hook(
        lambda *_: seen.append(torch.get_float32_matmul_precision())
    )
    torch.set_float32_matmul_precision("high")
    try:
        extractor(as_tensor(emoji[:1]))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        hook.remove()
    assert seen == ["highest"]


def test_no_images_per_batch_is_a_usage_error(extractor, emoji):
    with pytest.raises(UsageError, match="batch size of at least 1; got 0"):
        extract(as_tensor(emoji[:1]), extractor, batch_size=0)
