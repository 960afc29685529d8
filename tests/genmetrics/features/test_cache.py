import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.scripts import run_script

from genmetrics import BadInput, Processes, UsageError, extract_features, open_images
from genmetrics.cli import main
from genmetrics.features.cache import FeatureCache
from genmetrics.features.extraction import extract
from genmetrics.features.ordered import BATCHES_PER_SHARD
from genmetrics.images.pictures import NOTICED
from genmetrics.networks.extractors import Extractor

N, BATCH = 53, 3  # shards of 24, 24 and 5 images


class Counting(torch.nn.Module):
    """Two random projections of the mean colours; remembers what it was given."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(3, 5, generator=generator)
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        means = images.float().mean((2, 3))
        return {"wide": means @ self.weight, "narrow": (means @ self.weight)[:, :2].sin()}


@pytest.fixture
def extractor():
    outputs = {"wide": 5, "narrow": 2}
    return Extractor("counting", outputs, "mean", "ab12", Counting(), torch.device("cpu"))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 7, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(images, write_images):
    return write_images(images)


def read(source, extractor, cache=None):
    extractor.network.batches.clear()
    features = extract(source, extractor, batch_size=BATCH, cache=cache)
    return features, sum(extractor.network.batches)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def shards(cache):
    return sorted(cache.glob("*/*.npz"))


def test_second_run_computes_nothing_and_gives_the_same(folder, extractor, tmp_path):
    fresh, _ = read(open_images(folder), extractor)
    first, computed = read(open_images(folder), extractor, tmp_path / "cache")
    second, again = read(open_images(folder), extractor, tmp_path / "cache")
    assert (computed, again) == (N, 0)
    assert same(fresh, first)
    assert same(first, second)
    assert [f.name for f in shards(tmp_path / "cache")] == [
        "000000000-000000024.npz",
        "000000024-000000048.npz",
        "000000048-000000053.npz",
    ]
    assert BATCHES_PER_SHARD * BATCH == 24


def test_progress_counts_cached_images_too(folder, extractor, tmp_path):
    counts = []
    for _ in range(2):
        counts.append([])
        extract(
            open_images(folder),
            extractor,
            batch_size=BATCH,
            cache=tmp_path,
            progress=counts[-1].append,
        )
    assert [sum(c) for c in counts] == [N, N]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other shape"])
def test_a_damaged_shard_is_computed_again_with_a_warning(folder, extractor, tmp_path, damage):
    whole, _ = read(open_images(folder), extractor, tmp_path / "cache")
    shard = shards(tmp_path / "cache")[1]
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 1
    shard.write_bytes({"flip": content, "cut": content[:-30]}.get(damage, b""))
    if damage == "other shape":
        np.savez(shard, wide=np.zeros((3, 5), np.float32), narrow=np.zeros((3, 2), np.float32))
    with pytest.warns(UserWarning, match=r"000000024-000000048\.npz are damaged"):
        features, computed = read(open_images(folder), extractor, tmp_path / "cache")
    assert computed == 24
    assert same(whole, features)
    _, computed = read(open_images(folder), extractor, tmp_path / "cache")
    assert computed == 0


def test_touching_an_image_or_changing_the_network_invalidates(folder, extractor, tmp_path):
    read(open_images(folder), extractor, tmp_path / "cache")
    os.utime(folder / "3.png", (1, 1))
    _, computed = read(open_images(folder), extractor, tmp_path / "cache")
    assert computed == N
    for change in (
        {"weights_sha256": "cd34"},
        {"preprocess_id": "other"},
        {"name": "other"},
        {"outputs": {"narrow": 2, "wide": 5}},
    ):
        _, computed = read(open_images(folder), replace(extractor, **change), tmp_path / "cache")
        assert computed == (0 if "outputs" in change else N)  # their order is no content
    extract(open_images(folder), extractor, batch_size=BATCH + 1, cache=tmp_path / "cache")
    assert len({shard.parent for shard in shards(tmp_path / "cache")}) == 6


def test_pictures_of_the_same_names_sizes_and_times_are_told_apart(
    images, extractor, tmp_path, write_images
):
    others = images.copy()
    others[24:48] ^= 255  # the second of three shards
    found = []
    for name, pictures in (("first", images), ("second", others)):
        folder = write_images(pictures, name)
        for file in folder.iterdir():
            file.write_bytes(file.read_bytes().ljust(1000))
            os.utime(file, (1, 1))
        found.append(read(open_images(folder), extractor, tmp_path / "cache"))
    assert open_images(tmp_path / "first").fingerprint() == open_images(folder).fingerprint()
    (first, _), (second, computed) = found
    assert computed == 24
    assert same(second, read(open_images(folder), extractor)[0])
    assert not same(first, second)
    _, computed = read(open_images(folder), extractor, tmp_path / "cache")
    assert computed == 0


def test_a_chosen_part_is_not_taken_for_the_whole(folder, extractor, tmp_path):
    source = open_images(folder)
    whole, _ = read(source, extractor, tmp_path / "cache")
    rows = [5, 2, 30]
    part, computed = read(source.select(rows), extractor, tmp_path / "cache")
    assert computed == 3
    torch.testing.assert_close(part["wide"], whole["wide"][rows])


def test_tensors_are_cached_by_their_bytes(images, extractor, tmp_path):
    tensor = torch.from_numpy(images).movedim(-1, 1)
    _, first = read(tensor, extractor, tmp_path)
    _, second = read(tensor.clone(), extractor, tmp_path)
    changed = tensor.clone()
    changed[17, 1, 2, 3] ^= 1
    _, third = read(changed, extractor, tmp_path)
    assert (first, second, third) == (N, 0, N)


def test_a_damaged_npz_is_refused_where_its_images_are_needed(images, extractor, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images)
    whole, _ = read(open_images(path), extractor, tmp_path / "cache")
    content = bytearray(path.read_bytes())
    content[3000:3200] = bytes(200)
    path.write_bytes(content)
    features, computed = read(open_images(path), extractor, tmp_path / "cache")
    assert computed == 0
    assert same(whole, features)
    with pytest.raises(BadInput, match=r"x\.npz; got Bad CRC-32"):
        read(open_images(path), extractor)


@pytest.mark.parametrize("cached", ["nothing", "two thirds", "all"])
def test_copies_and_plain_images_are_known_with_any_part_in_the_cache(
    images, write_images, extractor, tmp_path, cached
):
    images[31], images[52], images[11] = images[2], images[7], 9
    folder = write_images(images, "repeated")
    if cached != "nothing":
        read(open_images(folder), extractor, tmp_path / "cache")
    if cached == "two thirds":
        shards(tmp_path / "cache")[1].unlink()
    source = open_images(folder)
    read(source, extractor, tmp_path / "cache")
    plain, copies = source.remarks()
    assert "1 of 53 images" in plain
    assert "throughout: 11.png" in plain
    assert "2 of 53 images" in copies
    assert "31.png = 2.png, 52.png = 7.png" in copies


def write_odd_pictures(folder):
    picture = Image.open(folder / "0.png")
    for index, mode in ((1, "L"), (4, "RGBA"), (30, "P"), (50, "L")):
        picture.convert(mode).save(folder / f"{index}.png")
    picture.resize((3, 4)).save(folder / "7.png")
    picture.save(folder / "60.jpg")
    picture.save(folder / "61.webp")
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(7, 5) * 1800).save(folder / "52.png")


@pytest.mark.parametrize("cached", ["two thirds", "all"])
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_odd_is_told_again_with_any_part_in_the_cache(
    folder, extractor, tmp_path, cached, zipped
):
    write_odd_pictures(folder)
    path = shutil.make_archive(tmp_path / "odd", "zip", folder) if zipped else folder
    first, second = (open_images(path, allow_16bit=True) for _ in range(2))
    read(first, extractor, tmp_path / "cache")
    if cached == "two thirds":
        shards(tmp_path / "cache")[1].unlink()
    read(second, extractor, tmp_path / "cache")
    alpha, kinds, lossy, wide, sizes, *_ = second.remarks()
    for words, told in (
        ("1 of 55 images", alpha),
        ("2 grey, 1 palette", kinds),
        ("2 of 55 images", lossy),
        ("1 of 55 images", wide),
        ("2 sizes (54 of 5x7, 1 of 3x4)", sizes),
    ):
        assert words in told
    assert second.remarks() == first.remarks()


def test_what_an_earlier_version_noticed_is_not_taken_from_the_cache(
    folder, extractor, tmp_path, monkeypatch
):
    source = open_images(folder)
    source.noticed = source.noticed.astype(
        [(name.replace("lossy", "jpeg"), kind) for name, kind in NOTICED.descr]
    )
    read(source, extractor, tmp_path / "cache")
    _, computed = read(open_images(folder), extractor, tmp_path / "cache")
    assert computed == N


def test_processes_notice_what_is_odd_too(folder, extractor):
    write_odd_pictures(folder)
    threads, processes = (open_images(folder, allow_16bit=True) for _ in range(2))
    for source, workers in ((threads, 2), (processes, Processes(2))):
        extract(source, extractor, batch_size=BATCH, workers=workers)
    assert len(threads.remarks()) == 6
    assert processes.remarks() == threads.remarks()


def test_processes_notice_copies_too(images, write_images, extractor):
    source = open_images(write_images(images[[0, 1, 0]], "repeated"))
    extract(source, extractor, workers=Processes(1))
    assert "2.png = 0.png" in source.remarks()[0]


def test_key_is_written_for_people(tmp_path):
    cache = FeatureCache(tmp_path, {"images": "a1", "extractor": "x"})
    key = json.loads((cache.folder / "key.json").read_text())
    assert key == {"format": 2, "images": "a1", "extractor": "x"}


def test_unwritable_folder_is_a_usage_error(folder, extractor, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(UsageError, match="writable folder for cached features"):
        extract(open_images(folder), extractor, cache=tmp_path / "taken" / "x")


def test_no_cache_leaves_no_files(folder, extractor, tmp_path):
    before = set(tmp_path.rglob("*"))
    extract_features(open_images(folder), extractor)
    assert set(tmp_path.rglob("*")) == before


PROGRAM = """
import os, signal
import torch
from genmetrics import get_extractor, open_images
from genmetrics.features.extraction import extract

torch.set_num_threads(1)
extractor = get_extractor("efflite0")
counts = []
def note(module, args):
    counts.append(len(args[0]))
    if len(counts) == last:
        os.kill(os.getpid(), signal.SIGKILL)
extractor.network.register_forward_pre_hook(note)
features = extract(open_images(source), extractor, batch_size=3, cache=cache)
torch.save((sum(counts), features["features"]), result)
"""


def test_killed_run_goes_on_and_ends_with_the_same_numbers(folder, tmp_path):
    def run(cache, result, last=None):
        values = {"source": str(folder), "cache": cache and str(cache), "last": last}
        values["result"] = str(tmp_path / result)
        return run_script(f"globals().update({values})\n{PROGRAM}")

    cache = tmp_path / "cache"
    # In the second shard: its first batches are then lost, the first shard is not.
    assert run(cache, "killed", last=11).returncode == -signal.SIGKILL
    assert len(shards(cache)) == 1
    assert run(cache, "resumed").stderr == run(None, "whole").stderr == ""
    (computed, resumed), (all_images, whole) = (
        torch.load(tmp_path / result) for result in ("resumed", "whole")
    )
    assert (computed, all_images) == (N - 24, N)
    assert torch.equal(resumed, whole)


COMMAND = """
import os, signal
import torch
from genmetrics.cli import main
from genmetrics.networks.efflite0 import EffLite0Features

torch.set_num_threads(1)
forward, passes = EffLite0Features.forward, []
def killed_at_last(self, images):
    passes.append(1)
    if len(passes) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, images)
EffLite0Features.forward = killed_at_last
main(argv)
"""


def test_killed_command_goes_on_and_prints_the_same_numbers(
    images, write_images, tmp_path, one_thread, capsys
):
    n = 37
    samples, real = write_images(images[:n], "samples"), write_images(images[:5], "real")
    cache = tmp_path / "cache"
    argv = ["eval", str(samples), "--ref", str(real), "--metrics", "fid,pr", "--json", "-"]
    argv += ["--extractor", "efflite0", "--batch-size", "1", "--workers", "1", "--device", "cpu"]
    cached = ["--cache", str(cache)]

    def finished(*options):
        assert main([*argv, *options]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["metrics"], err

    killed = run_script(f"argv, last = {[*argv, *cached]}, 20\n{COMMAND}")
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    found = 8 * len(shards(cache))
    assert found == 16  # shards of 8 images, of the samples first
    resumed, told = finished(*cached)
    assert f"{found} of {n} images from the cache, {n - found} computed\n" in told
    assert "0 of 5 images from the cache, 5 computed\n" in told
    whole, told = finished()
    assert "from the cache" not in told
    assert resumed == whole
