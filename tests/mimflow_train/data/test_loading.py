import errno
import multiprocessing
import os
import signal
import time
from itertools import islice
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from mimflow_train.data import loading
from mimflow_train.data.files import ImageFiles
from mimflow_train.data.folder import (
    BadImages,
    Decoded,
    FolderImages,
    ImageReader,
    Unreadable,
    folder_images,
)
from mimflow_train.data.images import Split
from mimflow_train.data.layout import read_layout
from mimflow_train.data.loading import load
from mimflow_train.data.order import EpochOrder
from mimflow_train.errors import DataError

POSITIONS = [[0, 1, 2], [3, 4], [5], [6, 7, 8, 9], list(range(10, 35)), list(range(35, 60))]


@pytest.fixture
def photos(tmp_path):
    """A folder of 45 pictures of noise in three classes, two of them corrupt."""
    draw = np.random.default_rng(0)
    for name, count in (("a", 7), ("b", 11), ("c", 27)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            noise = Image.fromarray(draw.integers(0, 256, (19, 23, 3), dtype=np.uint8))
            noise.save(tmp_path / "photos" / name / f"{number:02}.png")
    for each in ("b/04.png", "c/19.png"):
        (tmp_path / "photos" / each).write_bytes(b"no picture")
    return tmp_path / "photos"


def on_disk(folder, *, allowed=2, listing=None):
    """The training images of a folder, decoded when asked for, and what is said of bad ones."""
    files, warnings = read_layout(folder).train, []
    bad = BadImages(1000 * allowed, listing, warnings.append)
    return Split(FolderImages(ImageReader(files, 8), bad), torch.from_numpy(files.labels)), warnings


def batches(split, positions, loaders=0):
    order = EpochOrder(len(split.images), 0)
    indices = ([order[position] for position in batch] for batch in positions)
    return load(split.images, indices, loaders=loaders)


def assert_same(some, others):
    assert len(some) == len(others)
    for (indices, pixels), (other_indices, other_pixels) in zip(some, others, strict=True):
        assert torch.equal(indices, other_indices)
        assert torch.equal(pixels, other_pixels)


@pytest.mark.parametrize(("loaders", "start"), [(1, 0), (2, 0), (2, 3)])
def test_loader_processes_change_no_batch_and_no_report(photos, tmp_path, loaders, start):
    split, warnings = on_disk(photos, listing=tmp_path / "here.txt")
    here = [*batches(split, POSITIONS[start:])]
    split_elsewhere, warnings_elsewhere = on_disk(photos, listing=tmp_path / "there.txt")
    assert_same([*batches(split_elsewhere, POSITIONS[start:], loaders)], here)
    assert len(warnings) == 2
    assert warnings_elsewhere == warnings
    assert (tmp_path / "there.txt").read_text() == (tmp_path / "here.txt").read_text()


def test_a_start_in_the_middle_is_the_rest_of_the_whole(photos):
    split, _ = on_disk(photos)
    assert_same([*batches(split, POSITIONS[3:])], [*batches(split, POSITIONS)][3:])


def test_more_processes_than_cores_are_no_remark(photos, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    split, _ = on_disk(photos)
    elsewhere = [*batches(split, [[0]], loaders=2)]  # warnings are errors
    assert_same(elsewhere, [*batches(split, [[0]])])


def test_closing_early_leaves_no_process(photos):
    split, _ = on_disk(photos)
    iterator = batches(split, POSITIONS, loaders=2)
    next(iterator)
    assert len(multiprocessing.active_children()) == 2
    iterator.close()
    assert not multiprocessing.active_children()


def test_too_many_bad_images_in_a_process_end_the_run_in_one_sentence(photos):
    split, _ = on_disk(photos, allowed=1)
    with pytest.raises(DataError, match=r"^Expected at most 1 unreadable image\(s\); got 2: .*\.$"):
        list(batches(split, POSITIONS, loaders=1))
    assert not multiprocessing.active_children()


def test_a_class_without_a_readable_image_ends_the_run_in_one_sentence(photos):
    for path in (photos / "a").iterdir():
        path.write_bytes(b"")
    split, _ = on_disk(photos, allowed=99)
    with pytest.raises(DataError, match=r"^Expected a readable image of the class of .*files\.$"):
        list(batches(split, POSITIONS, loaders=1))


def test_signals_to_all_processes_leave_those_that_decode_alive(photos):
    forkserver._forkserver._stop()  # another test's, if there is one, hears all signals
    split, _ = on_disk(photos)
    iterator = batches(split, [[0]] * 20, loaders=1)
    next(iterator)
    process = multiprocessing.active_children()[0]
    server = forkserver._forkserver._forkserver_pid
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for number in (process.pid, server):  # torchrun sends it to all of a worker's
            os.kill(number, each)
    assert len(list(iterator)) == 19
    assert psutil.Process(server).status() != psutil.STATUS_ZOMBIE


def test_a_process_that_dies_is_one_sentence(photos):
    split, _ = on_disk(photos)
    iterator = batches(split, [[0]] * 1000, loaders=1)
    next(iterator)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(DataError, match=r"processes that decode images to live.*data\.loaders"):
        list(iterator)


def test_a_process_that_dies_amid_a_batch_is_one_sentence_where_batches_are_pinned(
    photos, monkeypatch
):
    """A thread of torch pins them, for a GPU, and ends with the batch that it cannot read."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "_pin_memory_loop", lambda *_: None)
    split, _ = on_disk(photos)
    with pytest.raises(DataError, match=r"processes that decode images to live.*data\.loaders"):
        list(load(split.images, [[0]] * 9, loaders=1, pin_memory=True))
    assert not multiprocessing.active_children()


def test_batches_carry_the_images_of_their_indices(data):
    for indices, pixels in load(data.train.images, iter([[0, 1], [2, 3, 4]])):
        assert torch.equal(pixels, data.train.stack(indices.tolist()))


def test_images_in_memory_start_no_process(data):
    iterator = batches(data.train, [[0], [1]], loaders=2)
    assert len(list(islice(iterator, 1))) == 1
    assert not multiprocessing.active_children()


def test_workers_with_one_list_count_together(tmp_path):
    warnings = []
    workers = [BadImages(2000, tmp_path / "bad.txt", warnings.append) for _ in range(2)]
    workers[0].add(Unreadable(tmp_path / "x", "cut"))
    workers[1].add(Unreadable(tmp_path / "x", "cut"))
    workers[1].add(Unreadable(tmp_path / "y", "cut"))
    assert len(warnings) == 2
    with pytest.raises(DataError, match="at most 2 unreadable"):
        workers[0].add(Unreadable(tmp_path / "z", "cut"))


def failing(monkeypatch, times, code):
    """Let the next reads of image files fail; return the waits in between."""
    waits, left, read = [], [times], ImageFiles._read

    def away(self, index):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(code, os.strerror(code))
        return read(self, index)

    monkeypatch.setattr(ImageFiles, "_read", away)
    monkeypatch.setattr("mimflow_train.storage.retries.time.sleep", waits.append)
    return waits


def test_a_storage_that_is_away_for_a_while_makes_no_image_a_bad_one(photos, monkeypatch):
    split, warnings = on_disk(photos)
    expected = split.stack([0])
    waits = failing(monkeypatch, 3, errno.ESTALE)
    assert torch.equal(split.stack([0]), expected)
    assert warnings == []
    assert waits == [0.5, 1.0, 2.0]


def test_a_storage_that_stays_away_is_a_reason(photos, monkeypatch):
    split, warnings = on_disk(photos)
    waits = failing(monkeypatch, 8, errno.EIO)
    split.stack([0])
    assert "00.png (" in warnings[0]
    assert "Input/output error" in warnings[0]
    assert sum(waits) < 64


def test_a_file_that_is_gone_is_not_waited_for(photos, monkeypatch):
    split, warnings = on_disk(photos)
    waits = failing(monkeypatch, 1, errno.ENOENT)
    split.stack([0])
    assert (len(warnings), waits) == (1, [])


def test_a_list_that_the_disk_does_not_take_ends_no_training(tmp_path):
    warnings = []
    (tmp_path / "bad.txt").mkdir()
    BadImages(2000, tmp_path / "bad.txt", warnings.append).add(Unreadable(tmp_path / "x", "cut"))
    assert len(warnings) == 1


def test_a_name_that_is_no_text_is_listed_and_known_again(tmp_path):
    warnings, name = [], b"\xff.png".decode(errors="surrogateescape")
    for _ in range(2):  # the second is another worker, or the same after a restart
        bad = BadImages(2000, tmp_path / "bad.txt", warnings.append)
        bad.add(Unreadable(tmp_path / name, "cut"))
    assert len(warnings) == 1
    assert (tmp_path / "bad.txt").read_bytes().endswith(b"/\xff.png\n")


def test_no_room_for_a_batch_is_a_sentence(photos, monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: 28")

    split, _ = on_disk(photos)
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert not loading._Batches(split.images.reader)[[0, 1]].mistake  # it stays in this process
    monkeypatch.setattr(loading, "get_worker_info", object)
    batch = loading._Batches(split.images.reader)[[0, 1]]
    assert batch.mistake.startswith("Expected room in /dev/shm for the images on their way; ")


def test_too_many_bad_images_end_the_decoding_at_once(photos, monkeypatch):
    decoded = []

    def decode(reader, index):
        decoded.append(index)
        time.sleep(0.01)
        torn = Unreadable(Path(f"{index}.png"), "torn")
        return Decoded(torch.zeros(3, 8, 8, dtype=torch.uint8), (torn,))

    monkeypatch.setattr(ImageReader, "decode", decode)
    with pytest.raises(DataError, match="got 2: "):
        folder_images(read_layout(photos), 8, bad_list=None, warn=print)
    assert len(decoded) < 30  # of 39
