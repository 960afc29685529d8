import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from genmetrics.images.adm_crop import adm_crop_picture
from mimflow_train.cli import data as data_command
from mimflow_train.data import precrop
from mimflow_train.data.decoding import load_rgb
from mimflow_train.data.layout import read_layout
from mimflow_train.data.photos import _regions, cut_photos
from mimflow_train.errors import DataError
from mimflow_train.storage.lock import locked


@pytest.fixture
def source(tmp_path):
    """A folder of 51 pictures of noise in two classes, one of them nested."""
    draw = np.random.default_rng(0)
    for place, count in (("a", 13), ("b/deep", 38)):
        (tmp_path / "source" / place).mkdir(parents=True)
        for number in range(count):
            noise = Image.fromarray(draw.integers(0, 256, (19, 23, 3), dtype=np.uint8))
            noise.save(tmp_path / "source" / place / f"{number:02}.png")
    return tmp_path / "source"


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        data_command.main([str(each) for each in arguments])
    return caught.value.code


def crop(source, out, *more):
    return run("crop", source, out, "--size", 8, "--format", "png", "--processes", 1, *more)


def names(files):
    return [files.name(i).removeprefix("train/").removeprefix("val/") for i in range(len(files))]


def test_copy_has_the_splits_and_the_order_of_the_source(source, tmp_path):
    assert crop(source, tmp_path / "out") == 0
    before, after = read_layout(source), read_layout(tmp_path / "out")
    assert after.class_names == before.class_names
    assert names(after.train) == names(before.train)
    assert names(after.held_out) == names(before.held_out)
    assert (tmp_path / "out" / "val").is_dir()


def test_a_copied_image_waits_for_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("a million of them would take hours"))
    options = precrop.CropOptions(size=8, encoding="png", quality=1)
    precrop._write(Image.new("RGB", (8, 8)), tmp_path / "a.png", options)
    assert (tmp_path / "a.png").stat().st_size


def test_copy_of_valid_beside_train_is_in_val(source, tmp_path):
    crop(source, tmp_path / "split")
    (tmp_path / "split" / "crop.json").unlink()
    (tmp_path / "split" / "val").rename(tmp_path / "split" / "valid")
    assert crop(tmp_path / "split", tmp_path / "out") == 0
    before, after = read_layout(tmp_path / "split"), read_layout(tmp_path / "out")
    assert names(after.held_out) == [name.removeprefix("valid/") for name in names(before.held_out)]
    assert (tmp_path / "out" / "val").is_dir()


@pytest.mark.parametrize("kind", ["folder", "tar", "splits"])
def test_copy_of_images_without_classes_has_them_all(source, tmp_path, kind):
    flat = source / "a"
    if kind == "tar":
        with tarfile.open(tmp_path / "flat.tar", "w") as tar:
            for file in sorted(flat.iterdir()):
                tar.add(file, file.name)
        flat = tmp_path / "flat.tar"
    elif kind == "splits":
        for number, file in enumerate(sorted(flat.iterdir())):
            part = flat / ("val" if number > 9 else "train")
            part.mkdir(exist_ok=True)
            file.rename(part / file.name)
    assert crop(flat, tmp_path / "out") == 0
    before, after = read_layout(flat), read_layout(tmp_path / "out")
    assert names(after.train) == names(before.train)
    assert names(after.held_out) == names(before.held_out)


def test_copy_has_the_pixels_that_training_would_see(source, tmp_path):
    crop(source, tmp_path / "out")
    files = read_layout(tmp_path / "out").train
    for i in range(len(files)):
        path = source / files.name(i).removeprefix("train/")
        assert load_rgb(files.place(i)).tobytes() == adm_crop_picture(load_rgb(path), 8).tobytes()


def test_images_that_are_enlarged_are_counted(source, tmp_path, capsys):
    Image.new("RGB", (40, 50)).save(source / "a" / "large.png")
    assert crop(source, tmp_path / "out", "--size", 20) == 0
    assert "51 of the 52 images written are smaller than 20 px" in capsys.readouterr().err
    assert crop(source, tmp_path / "whole", "--size", 19) == 0
    assert "smaller" not in capsys.readouterr().err


def test_copy_goes_on_where_it_was_stopped(source, tmp_path, capsys):
    crop(source, tmp_path / "out")
    files = read_layout(tmp_path / "out").train
    first, second = files.place(0), files.place(1)
    first.unlink()
    second.write_bytes(b"left alone")
    assert crop(source, tmp_path / "out") == 0
    assert "1 written, 50 already there, 0 unreadable" in capsys.readouterr().out
    assert second.read_bytes() == b"left alone"


def stop_midway(monkeypatch):
    """Make the next copy stop when its training images are done."""

    def stop(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(data_command.tqdm, "update", stop)


@pytest.mark.parametrize("place", ["", "train"])
def test_copy_that_was_stopped_is_refused_with_what_finishes_it(
    source, tmp_path, monkeypatch, place
):
    out = tmp_path / "out of it"
    with monkeypatch.context() as patch:
        stop_midway(patch)
        assert crop(source, out) == 130
    assert list((out / "train").rglob("*.png"))
    with pytest.raises(
        DataError, match=r"^Expected a whole set of images; .*not finished"
    ) as caught:
        read_layout(out / place)
    command = shlex.split(str(caught.value).split("`")[1])
    assert command[:1] == ["mimflow-data"]
    assert run(*command[1:], "--processes", 1) == 0
    assert len(read_layout(out / place).class_names) == 2


def test_copy_that_is_checked_again_is_whole_only_when_that_is_done(source, tmp_path, monkeypatch):
    crop(source, tmp_path / "out")
    stop_midway(monkeypatch)
    assert crop(source, tmp_path / "out") == 130
    with pytest.raises(DataError, match="not finished"):
        read_layout(tmp_path / "out")


def test_copy_that_was_stopped_before_its_record_goes_on(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: sys.exit(9))
        patch.setattr(Path, "unlink", lambda *_: None)  # as kill -9 leaves it
        assert crop(source, tmp_path / "out") == 9
    assert [each.name for each in (tmp_path / "out").iterdir()] == [".crop.json.draft"]
    assert crop(source, tmp_path / "out") == 0


@pytest.mark.parametrize("content", ["no json", "[1]", '{"mine": 1}'])
def test_a_users_own_file_of_that_name_is_not_looked_at(source, content):
    (source / "crop.json").write_text(content)
    assert len(read_layout(source).class_names) == 2


def gone(process):
    """Whether a process has ended, perhaps unnoticed by its parent."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "source" / "b").mkdir()
    noise = Image.fromarray(draw.integers(0, 256, (700, 700, 3), dtype=np.uint8))
    noise.save(tmp_path / "source" / "noise.png")
    for number in range(480):
        name = f"{'ab'[number % 2]}/{number:03}.png"
        os.link(tmp_path / "source" / "noise.png", tmp_path / "source" / name)
    out = tmp_path / "out"
    main = "from mimflow_train.cli.data import main; main()"
    command = [sys.executable, "-c", main, "crop", tmp_path / "source", out, "--processes", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: list(out.rglob("*.png.jpeg")))
        started = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    assert len(started) >= 3  # the server that forks them, and two
    wait_until(lambda: all(map(gone, started)))
    assert len(list(out.rglob("*.png.jpeg"))) < 400
    with pytest.raises(DataError, match="not finished"):
        read_layout(out)


def test_copy_leaves_no_drafts(source, tmp_path):
    crop(source, tmp_path / "out")
    assert not [each for each in (tmp_path / "out").rglob("*") if each.name.startswith(".")]


def test_unreadable_images_are_left_out_and_listed(source, tmp_path, capsys):
    (source / "a" / "03.png").write_bytes(b"no picture")
    assert crop(source, tmp_path / "out") == 0
    assert "50 written, 0 already there, 1 unreadable" in capsys.readouterr().out
    assert (tmp_path / "out" / "skipped.txt").read_text() == f"{source / 'a/03.png'}: no image\n"


def test_a_copy_of_nothing_is_a_failure(source, tmp_path, capsys):
    for path in source.rglob("*.png"):
        path.write_bytes(b"no picture")
    assert crop(source, tmp_path / "out") == 3
    assert "got none among 51, the first " in capsys.readouterr().err
    assert len((tmp_path / "out" / "skipped.txt").read_text().splitlines()) == 51


def test_images_of_16_bits_are_left_out_and_listed(source, tmp_path, capsys):
    Image.new("I;16", (19, 23), 3000).save(source / "a" / "03.png")
    assert crop(source, tmp_path / "out") == 0
    assert "03.png: 16 bits a channel; save it with 8" in capsys.readouterr().err
    assert "save it with 8" in (tmp_path / "out" / "skipped.txt").read_text()


@pytest.mark.parametrize("change", ["options", "images"])
def test_copy_with_something_else_is_refused(source, tmp_path, capsys, change):
    crop(source, tmp_path / "out")
    if change == "images":
        (source / "a" / "03.png").unlink()
    more = ["--quality", 90] if change == "options" else []
    assert crop(source, tmp_path / "out", *more) == 2
    assert "images and options that" in capsys.readouterr().err


def test_folder_with_something_else_is_left_alone(source, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert crop(source, tmp_path / "out") == 2
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_format_is_what_is_written(source, tmp_path, encoding, kind):
    crop(source, tmp_path / "out", "--format", encoding)
    with Image.open(read_layout(tmp_path / "out").train.place(0)) as image:
        assert image.format == kind


@pytest.mark.parametrize("bad", [("--quality", 101), ("--size", 7), ("--processes", 0)])
def test_bad_option_is_one_sentence(source, tmp_path, capsys, bad):
    assert crop(source, tmp_path / "out", *bad) == 2
    assert f"Expected {bad[0]} " in capsys.readouterr().err


def test_record_says_what_was_done(source, tmp_path):
    crop(source, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "crop.json").read_text())
    assert record.pop("source") == read_layout(source).fingerprint
    assert record == {"size": 8, "encoding": "png", "quality": 95}


def test_no_held_out_square_shares_a_pixel_with_one_to_train_on():
    cuts = list(cut_photos(8))
    for name in {cut.class_name for cut in cuts}:
        right_most = max(
            cut.box[2] for cut in cuts if (cut.class_name, cut.split) == (name, "train")
        )
        left_most = min(cut.box[0] for cut in cuts if (cut.class_name, cut.split) == (name, "val"))
        assert right_most <= left_most


def test_tall_photograph_is_cut_across():
    assert _regions(Image.new("RGB", (40, 80))) == ((0, 0, 40, 60), (0, 60, 40, 80))


@pytest.mark.parametrize("name", ["photos", "emoji"])
def test_set_that_was_stopped_leaves_nothing_that_looks_whole(tmp_path, monkeypatch, name):
    out = tmp_path / "new" / "images"
    image = Image.new("RGB", (8, 8))
    few = [(split, f"a/{number}.png", image) for split in ("train", "val") for number in range(3)]

    def stopped(_size):
        yield from few[:4]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_command, f"_{name}", stopped)
        patch.setattr(data_command.shutil, "rmtree", lambda *_, **__: None)  # as kill -9 leaves it
        assert run(name, out, "--size", 8) == 130
    left = list(out.parent.iterdir())
    assert [each.name for each in left] == [".images.partial"]
    (left[0] / "train" / "old").mkdir()
    monkeypatch.setattr(data_command, f"_{name}", lambda _: iter(few))
    assert run(name, out, "--size", 8) == 0
    assert list(out.parent.iterdir()) == [out]
    assert not (out / "train" / "old").exists()


def test_set_that_was_interrupted_is_cleared_away(tmp_path, monkeypatch):
    monkeypatch.setattr(data_command.glyphs, "draw", lambda *_: sys.exit(9))
    assert run("emoji", tmp_path / "out" / "emoji") == 9
    assert not list((tmp_path / "out").iterdir())


def test_photos_command_writes_what_training_reads(tmp_path):
    assert run("photos", tmp_path / "photos", "--size", 8) == 0
    layout = read_layout(tmp_path / "photos")
    assert (len(layout.train), len(layout.held_out), len(layout.class_names)) == (1800, 240, 6)
    assert "scikit-image" in (tmp_path / "photos" / "ATTRIBUTION.txt").read_text()


def test_a_second_command_on_one_copy_is_refused(source, tmp_path, capsys):
    out = tmp_path / "out"
    crop(source, out)
    with locked(out):
        assert crop(source, out) == 2
    assert f"Expected {out} to be free" in capsys.readouterr().err
    assert crop(source, out) == 0
    assert not read_layout(out).remark


def test_a_second_command_on_one_new_set_is_refused(tmp_path, capsys):
    out = tmp_path / "photos"
    with locked(tmp_path / ".photos.partial"):
        assert run("photos", out, "--size", 8) == 2
    assert "to be free" in capsys.readouterr().err
    assert (tmp_path / ".photos.partial").exists()
    (tmp_path / ".photos.partial/train").mkdir()
    (tmp_path / ".photos.partial/train/old.png").touch()
    assert run("photos", out, "--size", 8) == 0
    assert not any(out.rglob(".*"))
    assert not any(out.rglob("old.png"))
    assert not (tmp_path / ".photos.partial").exists()


def test_a_copy_inside_its_source_is_refused(source, capsys):
    assert crop(source, source / "small") == 2
    assert "since all images in that are read" in capsys.readouterr().err
    assert not (source / "small").exists()


def test_a_killed_process_is_a_sentence(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(precrop, "_end_with_parent", _die)
    assert crop(source, tmp_path / "out") == 3
    assert "Lower --processes" in capsys.readouterr().err


def _die():
    os._exit(9)
