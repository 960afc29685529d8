import tracemalloc
import weakref
import zipfile

import numpy as np
import pytest
from PIL import Image

from genmetrics import BadInput, open_images, open_reference
from genmetrics.cli import main
from genmetrics.images.adm_crop import adm_center_crop
from genmetrics.images.sources import class_names
from genmetrics.images.writing import pack_images, write_npz


def pixels(n=5, height=6, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def classes(tmp_path):
    for index, (name, image) in enumerate(zip("bbaca", pixels(), strict=True)):
        save(tmp_path / f"set/{name}/{index}.png", image)
    return tmp_path / "set"


def fails(capsys, argv, code):
    """Run, and return the one sentence on stderr."""
    try:
        found = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse's way out
        found = stop.code
    assert found == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def fails_in_one_line(capsys, argv, code):
    error = fails(capsys, argv, code)
    assert error.startswith("genmetrics: Expected ")
    assert error.count("\n") == 1
    return error


def formula(image, size):
    """Openai's guided-diffusion: halve by box, scale by bicubic, cut at floored offsets."""
    width, height = image.size
    while min(width, height) // size >= 2:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.BOX)
    ratio = size / min(width, height)
    image = image.resize((round(width * ratio), round(height * ratio)), Image.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (16, 16),
        (8, 8),
        (17, 53),
        (53, 17),
        (15, 15),
        (97, 33),
        (8, 21),
        (64, 67),
        (5, 11),
        (31, 32),
    ],
)
def test_crop_is_the_formula(height, width):
    image = pixels(1, height, width)[0]
    np.testing.assert_array_equal(adm_center_crop(image, 8), formula(Image.fromarray(image), 8))


def test_crop_of_a_square_of_the_size_is_the_image():
    image = pixels(1, 7, 7)[0]
    np.testing.assert_array_equal(adm_center_crop(image, 7), image)


def test_halving_is_the_mean_of_four_pixels():
    image = pixels(1, 14, 14)[0]
    means = image.reshape(7, 2, 7, 2, 3).mean(axis=(1, 3))
    assert np.abs(adm_center_crop(image, 7) - means).max() <= 1  # it rounds twice


def test_crop_cuts_the_odd_row_off_the_end():
    image = pixels(1, 10, 7)[0]
    np.testing.assert_array_equal(adm_center_crop(image, 7), image[1:8])


def test_npz_is_written_while_images_are_made(tmp_path):
    path = tmp_path / "new.npz"
    images = pixels(5)

    def made():
        alive: list[weakref.ref[np.ndarray]] = []
        for index in range(len(images)):
            assert not path.exists()
            assert [image() for image in alive[:-1]] == [None] * (index - 1)  # one at a time
            image = images[index].copy()
            alive.append(weakref.ref(image))
            yield image
            del image

    write_npz(made(), path, np.arange(5), count=5)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], images)
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(5))
    np.testing.assert_array_equal(open_images(path).read(4), images[4])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(4), "Expected 5 images to write; got 4"),
        (pixels(6), "Expected 5 images to write; got 6"),
        ([*pixels(4), *pixels(1, 7, 7)], r"got uint8 \(7, 7, 3\) as number 4"),
        (pixels(5).astype(float), r"got float64 \(6, 7, 3\) as number 0"),
        (pixels(5)[..., 0], r"got uint8 \(6, 7\) as number 0"),
    ],
)
def test_npz_of_other_images_than_were_announced_is_not_written(tmp_path, images, message):
    (tmp_path / "x.npz").write_bytes(b"what was there")
    with pytest.raises(BadInput, match=message):
        write_npz(images, tmp_path / "x.npz", count=5)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there"]


def test_npz_of_nothing_is_not_written(tmp_path):
    with pytest.raises(BadInput, match="Expected some images to write; got 0"):
        write_npz([], tmp_path / "x.npz", count=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_pack_keeps_order_pixels_and_labels(classes, tmp_path, capsys, kind):
    source = classes
    if kind == "zip":
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w") as zipped:
            for file in classes.rglob("*.png"):
                zipped.write(file, file.relative_to(classes))
    out = tmp_path / "out.npz"
    assert main(["pack", str(source), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 5 images, labels of 3 classes\n"
    with np.load(out, allow_pickle=False) as archive:
        assert archive.files == ["arr_0", "arr_1", "classes"]
        np.testing.assert_array_equal(archive["arr_0"], pixels()[[2, 4, 0, 1, 3]])
        np.testing.assert_array_equal(archive["arr_1"], [0, 0, 1, 1, 2])
    packed = open_images(out)
    assert class_names(packed.select([0, 4])) == class_names(open_images(classes))
    assert open_reference(out).images is not None
    assert isinstance(packed.images, np.memmap)
    np.testing.assert_array_equal(packed.labels, open_images(classes).labels)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "labels", [np.arange(2), np.arange(3.0), np.zeros((3, 2), int)], ids=["few", "floats", "2-d"]
)
def test_labels_that_are_not_one_whole_number_each_are_refused(tmp_path, labels):
    with pytest.raises(BadInput, match="3 whole numbers as labels, one for each image; got"):
        write_npz(pixels(3), str(tmp_path / "x.npz"), labels, count=3)
    assert not list(tmp_path.iterdir())


def test_pack_of_a_flat_folder_has_no_labels(write_images, tmp_path):
    folder = write_images(pixels())
    assert main(["pack", str(folder), str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["arr_0"]


def test_pack_holds_few_images_at_once(tmp_path):
    images = np.zeros((600, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "in.npz", images)
    source = open_images(tmp_path / "in.npz")
    tracemalloc.start()
    pack_images(source, tmp_path / "out.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < images.nbytes / 3


def test_pack_refuses_mixed_sizes_and_leaves_the_old_file(write_images, tmp_path, capsys):
    folder = write_images([*pixels(3), *pixels(1, 5, 7)])
    write_npz(pixels(), tmp_path / "out.npz", count=5)
    old = (tmp_path / "out.npz").read_bytes()
    error = fails_in_one_line(capsys, ["pack", folder, tmp_path / "out.npz"], 3)
    assert "one size, 7x6; got 7x5 for 3.png" in error
    assert (tmp_path / "out.npz").read_bytes() == old
    assert not list(tmp_path.glob(".*"))


def test_prepare_writes_the_crops_under_their_names(tmp_path, capsys):
    images = {"a/1.png": (40, 23), "b/x.y.jpeg": (30, 61), "2.bmp": (19, 19)}
    for name, (height, width) in images.items():
        save(tmp_path / "set" / name, pixels(1, height, width)[0])
    out = tmp_path / "out"
    assert main(["prepare", str(tmp_path / "set"), str(out), "--size", "9"]) == 0
    result = capsys.readouterr()
    assert result.out == f"{out}: 3 images of 9x9\n"
    assert "1 of 3 images" in result.err
    found = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert found == {"a/1.png", "b/x.y.png", "2.png"}
    with Image.open(tmp_path / "set/b/x.y.jpeg") as image:
        expected = formula(image.convert("RGB"), 9)
    with Image.open(out / "b/x.y.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.array(image), expected)


def test_prepared_images_of_an_array_are_numbered(tmp_path):
    images = pixels(12)
    np.savez(tmp_path / "in.npz", images)
    assert main(["prepare", str(tmp_path / "in.npz"), str(tmp_path / "out"), "--size", "6"]) == 0
    source = open_images(tmp_path / "out")
    assert source.names[:2] == ["000000.png", "000001.png"]
    np.testing.assert_array_equal(source.read(11), images[11][:, :6])


def test_prepare_then_pack_takes_mixed_sizes(tmp_path, write_images):
    folder = write_images([*pixels(2, 20, 31), *pixels(1, 9, 9)])
    assert main(["prepare", str(folder), str(tmp_path / "out"), "--size", "8"]) == 0
    assert main(["pack", str(tmp_path / "out"), str(tmp_path / "out.npz")]) == 0
    assert open_images(tmp_path / "out.npz").images.shape == (3, 8, 8, 3)


def test_prepare_refuses_two_images_of_one_name(tmp_path, capsys):
    for name in ("1.png", "1.bmp"):
        save(tmp_path / "set" / name, pixels(1)[0])
    argv = ["prepare", tmp_path / "set", tmp_path / "out", "--size", "4"]
    assert "1.bmp and 1.png" in fails_in_one_line(capsys, argv, 3)
    assert not (tmp_path / "out").exists()


def test_prepare_refuses_a_folder_with_files(write_images, capsys):
    folder = write_images(pixels())
    before = sorted(folder.iterdir())
    error = fails_in_one_line(capsys, ["prepare", folder, folder, "--size", "4"], 2)
    assert "new or empty folder" in error
    assert sorted(folder.iterdir()) == before


def test_prepare_goes_on_after_a_bad_image(write_images, tmp_path, capsys):
    folder, out = write_images(pixels(40)), tmp_path / "out"
    good = (folder / "39.png").read_bytes()
    (folder / "39.png").write_bytes(good[:60])
    argv = ["prepare", folder, out, "--size", "4"]
    assert "39.png" in fails_in_one_line(capsys, argv, 3)
    written = {file.name: file.stat().st_mtime_ns for file in out.glob("*.png")}
    assert written
    for other in (
        ["prepare", folder, out, "--size", "5"],
        ["prepare", write_images(pixels(), "other"), out, "--size", "4"],
    ):
        assert "new or empty folder" in fails_in_one_line(capsys, other, 2)
    (folder / "39.png").write_bytes(good)
    assert main([str(word) for word in argv]) == 0
    capsys.readouterr()
    assert len(list(out.iterdir())) == 40
    assert written.items() <= {file.name: file.stat().st_mtime_ns for file in out.iterdir()}.items()
    np.testing.assert_array_equal(open_images(out).read(39), adm_center_crop(pixels(40)[39], 4))
    assert "new or empty folder" in fails_in_one_line(capsys, argv, 2)


def test_prepare_leaves_no_half_file(write_images, tmp_path, monkeypatch):
    folder, save = write_images(pixels(1)), Image.Image.save

    def stop(image, path, **options):
        save(image, path, **options)
        raise KeyboardInterrupt

    argv = ["prepare", str(folder), str(tmp_path / "out"), "--size", "4"]
    monkeypatch.setattr(Image.Image, "save", stop)
    assert main(argv) == 130
    assert not list((tmp_path / "out").glob("[!.]*"))
    monkeypatch.setattr(Image.Image, "save", save)
    assert main(argv) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["0.png"]


COMMANDS = pytest.mark.parametrize("command", ["pack", "prepare"])


def arguments(command, source, target):
    if command == "pack":
        return ["pack", source, target / "out.npz"]
    return ["prepare", source, target / "out", "--size", "4"]


@COMMANDS
def test_bad_images_are_named_or_skipped(write_images, tmp_path, capsys, command):
    folder = write_images(pixels())
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    argv = arguments(command, folder, tmp_path)
    assert "1.png" in fails_in_one_line(capsys, argv, 3)
    assert main([*map(str, argv), "--on-bad-image", "skip"]) == 6
    result = capsys.readouterr()
    assert "4 images" in result.out
    assert "left out of n: 1.png" in result.err


@COMMANDS
def test_unreadable_inputs_exit_3(tmp_path, capsys, command):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "deep/a/b/1.png", pixels(1)[0])
    (tmp_path / "wide").mkdir()
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(tmp_path / "wide/1.png")
    np.savez(tmp_path / "float.npz", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "key.npz", images=pixels())
    np.savez(tmp_path / "object.npz", np.array([{}]))
    (tmp_path / "torn.zip").write_bytes(b"PK")
    for name, message in [
        ("gone/away", f"({tmp_path} does)"),
        ("empty", "got no files"),
        ("deep", "--recursive"),
        ("wide", "8 bits per channel"),
        ("float.npz", "got float64"),
        ("key.npz", "got images"),
        ("object.npz", "allow_pickle=False"),
        ("torn.zip", "zip archive"),
    ]:
        error = fails_in_one_line(capsys, arguments(command, tmp_path / name, tmp_path), 3)
        assert message in error
    assert (
        main([str(a) for a in arguments(command, tmp_path / "deep", tmp_path)] + ["--recursive"])
        == 0
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pack", "a"], "required: OUT.npz"),
        (["pack", "a", "no/such/x.npz"], "existing folder"),
        (["prepare", "a", "b"], "required: --size"),
        (["prepare", "a", "b", "--size", "0"], "at least 1; got '0'"),
        (["prepare", "a", "no/such/b", "--size", "4"], "existing folder"),
        (["pack", "a", "x.npz", "--on-bad-image", "hide"], "'hide'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2(capsys, argv, message):
    assert message in fails(capsys, argv, 2)


def test_a_target_of_another_ending_exits_2(write_images, tmp_path, capsys):
    argv = ["pack", write_images(pixels()), tmp_path / "x.npy"]
    assert "end in .npz" in fails_in_one_line(capsys, argv, 2)
