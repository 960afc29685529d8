import os
import pickle
import shutil
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genmetrics import BadInput, UsageError, open_images
from genmetrics.evaluation.reference import open_reference
from genmetrics.images.sources import ImageSource, read_ahead


def pixels(n=3, height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1)[0] if image is None else image).save(path, **options)


def names(source):
    return source.names


def zip_folder(folder, archive, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(archive, "w", compression) as zipped:
        for file in sorted(folder.rglob("*"), reverse=True):
            zipped.write(file, file.relative_to(folder))
    return archive


def png_of_16_bits():
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    rows = zlib.compress(4 * (b"\0" + 5 * b"\x12\x34\x56\x78\x9a\xbc"))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_files_are_in_natural_order_of_their_paths(tmp_path):
    for name in (
        "img10.png",
        "img2.png",
        "Img1.png",
        "img02.png",
        "b/1.png",
        "a/11.png",
        "a/9.png",
    ):
        save(tmp_path / name)
    assert names(open_images(tmp_path)) == [
        "a/9.png",
        "a/11.png",
        "b/1.png",
        "Img1.png",
        "img02.png",
        "img2.png",
        "img10.png",
    ]


def test_every_extension_is_read_in_any_letter_case(tmp_path):
    for name in ("a.png", "b.JPG", "c.Jpeg", "d.webp", "e.BMP", "f.PPM", "g.Tif", "h.tiff"):
        save(tmp_path / name)
    source = open_images(str(tmp_path))
    assert len(source) == 8
    assert all(source.read(i).shape == (4, 5, 3) for i in range(8))


def test_folders_below_the_first_level_need_recursive(tmp_path):
    for name in ("0.png", "cat/1.png", "cat/old/2.png"):
        save(tmp_path / name)
    assert names(open_images(tmp_path)) == ["0.png", "cat/1.png"]
    assert names(open_images(tmp_path, recursive=True)) == ["0.png", "cat/1.png", "cat/old/2.png"]


@pytest.mark.parametrize("zipped", [False, True])
def test_images_deeper_than_is_read_are_counted(tmp_path, zipped):
    folder = tmp_path / "set"
    for name in ("0.png", "a/1.png", "a/b/2.png", "a/b/c/3.JPG", "d/e/4.png", ".h/i/j/5.png"):
        save(folder / name)
    (folder / "a/b/notes.txt").write_text("x")
    path = zip_folder(folder, tmp_path / "x.zip") if zipped else folder
    source = open_images(path)
    expected = (
        f"3 images in folders inside of sub-folders of {path} were not read; --recursive reads "
        "them (recursive in Python)."
    )
    assert source.remarks() == source.select([1]).remarks() == [expected]
    assert open_images(path, recursive=True).remarks() == []


def test_nothing_deeper_is_listed_where_nothing_lies_deeper(tmp_path, monkeypatch):
    listed = []
    for name in ("0.png", "a/1.png", "b/2.png"):
        save(tmp_path / name)
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self.name) or real(self))
    assert open_images(tmp_path).remarks() == []
    assert sorted(listed) == ["a", "b", tmp_path.name]


def test_deeper_folders_that_lead_back_are_not_counted(tmp_path):
    save(tmp_path / "a/1.png")
    save(tmp_path / "a/b/2.png")
    (tmp_path / "a/b/back").symlink_to(tmp_path)
    assert open_images(tmp_path).remarks()[0].startswith("1 images in folders inside")


def test_deeper_folders_need_not_be_readable(tmp_path, monkeypatch):
    save(tmp_path / "a/1.png")
    save(tmp_path / "a/b/2.png")
    real = Path.iterdir

    def iterdir(self):
        if self.name == "b":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert names(open_images(tmp_path)) == ["a/1.png"]
    with pytest.raises(BadInput, match="readable folder"):
        open_images(tmp_path, recursive=True)


def test_linked_folders_are_read_and_loops_are_not_followed(tmp_path):
    save(tmp_path / "real/1.png")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "real")
    (folder / "loop").symlink_to(folder)
    assert names(open_images(folder, recursive=True)) == ["link/1.png"]


def test_hidden_files_are_passed_over(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"resource fork")
    assert names(open_images(tmp_path)) == ["1.png"]


def test_pixels_are_those_of_the_file(tmp_path):
    image = pixels(1)[0]
    save(tmp_path / "1.png", image)
    np.testing.assert_array_equal(open_images(tmp_path).read(0), image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(pixels(1)[0]).convert(mode)
    image.save(tmp_path / ("1.jpg" if mode == "CMYK" else "1.png"))
    read = open_images(tmp_path).read(0)
    assert read.shape == (4, 5, 3)
    assert read.dtype == np.uint8


def test_transparency_is_dropped_and_remarked_upon(tmp_path):
    rgb = pixels(1)[0]
    save(tmp_path / "1.png", np.dstack([rgb, np.zeros((4, 5), np.uint8)]))
    save(tmp_path / "2.png", rgb)
    palette = Image.fromarray(rgb).quantize(4)
    palette.save(tmp_path / "3.png", transparency=b"\x00\x80")
    source = open_images(tmp_path)
    assert source.remarks() == []
    np.testing.assert_array_equal(source.read(0), rgb)
    source.read(1)
    source.read(2)
    assert "2 of 3 images" in source.remarks()[0]
    assert "1 of 3 images" in source.remarks()[1]


def test_select_keeps_places_and_order(tmp_path):
    images = pixels(4)
    for i, image in enumerate(images):
        save(tmp_path / f"{i}.png", image)
    np.savez(tmp_path / "all.npz", images)
    for source in (open_images(tmp_path), open_images(tmp_path / "all.npz")):
        chosen = source.select([3, 1]).select([1, 0])
        assert len(chosen) == 2
        np.testing.assert_array_equal(chosen.read(0), images[1])
        np.testing.assert_array_equal(chosen.read(1), images[3])


@pytest.mark.parametrize("layout", ["C", "F"])
def test_stored_npz_is_mapped_and_equal(tmp_path, layout):
    images = pixels(7, 3, 5)
    np.savez(tmp_path / "x.npz", arr_1=np.arange(7), arr_0=np.asarray(images, order=layout))
    source = open_images(tmp_path / "x.npz")
    assert isinstance(source.images, np.memmap)
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(7)]), images)


def test_compressed_npz_is_read_and_equal(tmp_path):
    images = pixels(7, 3, 5)
    np.savez_compressed(tmp_path / "x.npz", images)
    source = open_images(tmp_path / "x.npz")
    assert not isinstance(source.images, np.memmap)
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(7)]), images)


def test_statistics_beside_the_images_are_remarked_upon(tmp_path):
    np.savez(tmp_path / "x.npz", pixels(3), mu=np.zeros(2), sigma=np.eye(2))
    assert "mu and sigma" in open_images(tmp_path / "x.npz").remarks()[0]


def test_missing_path_names_the_closest_folder(tmp_path):
    with pytest.raises(BadInput, match=f"does not exist .{tmp_path} does"):
        open_images(tmp_path / "no" / "where")


def test_empty_folder_says_what_was_found(tmp_path):
    for name in ("a.txt", "b.txt", "c.gif", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(BadInput, match=r"got 2 \.txt, 1 \.gif, 1 without extension\. Check"):
        open_images(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_recursive_is_advised_only_where_pictures_lie_deeper(tmp_path, zipped):
    for name in ("1.gif", "a/2.avif", "a/b/3.gif"):
        save(tmp_path / "set" / name, format="gif")

    def opened(**options):
        path = zip_folder(tmp_path / "set", tmp_path / "x.zip") if zipped else tmp_path / "set"
        return open_images(path, **options)

    with pytest.raises(BadInput, match=r"got 1 \.avif, 1 \.gif\. Check the path, or save"):
        opened()
    save(tmp_path / "set/a/b/4.png")
    with pytest.raises(
        BadInput, match=r"1 \.gif\. Images that lie deeper: 1\. Read them with --recursive"
    ):
        opened()
    assert len(opened(recursive=True)) == 1


def test_folder_without_files(tmp_path):
    with pytest.raises(BadInput, match="got no files"):
        open_images(tmp_path, recursive=True)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("1.png", "Pass its folder"),
        ("x.npy", r"np\.savez\('x\.npz', np\.load\('x\.npy'\)\)"),
        ("a.tar", "Unpack it"),
        ("a.tar.gz", "Unpack it"),
        ("report.json", "Pass the images"),
    ],
)
def test_file_of_another_kind_is_refused_with_what_to_do_with_it(tmp_path, name, advice):
    (tmp_path / name).touch()
    with pytest.raises(BadInput, match=advice):
        open_images(tmp_path / name)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_corrupt_image_is_named(tmp_path, damage):
    save(tmp_path / "good.png")
    save(tmp_path / "torn.png", pixels(1, 64, 64)[0])
    whole = (tmp_path / "torn.png").read_bytes()
    broken = {"truncated": whole[:-4000], "text": b"no image", "empty": b""}[damage]
    (tmp_path / "torn.png").write_bytes(broken)
    with pytest.raises(BadInput, match=r"torn\.png.*Repair or remove"):
        open_images(tmp_path).read(1)


def test_sixteen_bits_are_refused(tmp_path):
    save(tmp_path / "1.png", np.full((4, 5), 40_000, np.uint16))
    with pytest.raises(BadInput, match=r"8 bits per channel; got mode I;16 in .*1\.png"):
        open_images(tmp_path).read(0)


@pytest.mark.parametrize(
    ("name", "content"),
    [("1.png", png_of_16_bits()), ("1.ppm", b"P6\n5 4\n65535\n" + bytes(5 * 4 * 6))],
)
def test_sixteen_bits_of_colour_are_refused_though_pillow_says_rgb(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match="got mode 16-bit RGB"):
        open_images(tmp_path).read(0)


def test_the_upper_eight_of_sixteen_bits_are_kept(tmp_path):
    levels = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000 + 200
    save(tmp_path / "1.png", levels)
    (tmp_path / "2.png").write_bytes(png_of_16_bits())
    source = open_images(tmp_path, allow_16bit=True)
    np.testing.assert_array_equal(source.read(0), np.stack(3 * [levels // 256], axis=2))
    np.testing.assert_array_equal(source.read(1)[3, 4], [0x12, 0x56, 0x9A])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_never_cut(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "1.tif")
    with pytest.raises(BadInput, match=f"got mode {mode} in .*Convert it to 8 bits.$"):
        open_images(tmp_path, allow_16bit=True).read(0)


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_rounded_to_the_nearest_level(tmp_path, low, dtype):
    images = pixels(3)
    floats = (low + images / 255 * (1 - low)).astype(dtype)
    np.savez(tmp_path / "x.npz", floats.transpose(0, 3, 1, 2))
    source = open_images(tmp_path / "x.npz", float_range=(low, 1.0)).select([2, 0])
    np.testing.assert_array_equal(source.read(0), images[2])


def test_fingerprints_of_floats_follow_their_range(tmp_path):
    np.savez(tmp_path / "x.npz", pixels(3) / 255)
    ranges = [(0.0, 1.0), (-1.0, 1.0), (0.0, 1.0)]
    a, b, c = (open_images(tmp_path / "x.npz", float_range=each).fingerprint() for each in ranges)
    assert a == c != b


@pytest.mark.parametrize("wrong", [(-1.0, 1.0), (0.0, 255.0)])
def test_floats_that_fit_a_narrower_range_are_remarked(tmp_path, wrong):
    np.savez(tmp_path / "x.npz", pixels(3) / 255)
    remarks = open_images(tmp_path / "x.npz", float_range=wrong).select([1]).remarks()
    assert len(remarks) == 1
    assert "All values of the 3 images looked at in arr_0 of " in remarks[0]
    assert f"though black is {wrong[0]:g} and white {wrong[1]:g}" in remarks[0]
    assert "--float-range 0,1" in remarks[0]


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_floats_of_their_range_are_not_remarked(tmp_path, low):
    np.savez(tmp_path / "x.npz", low + pixels(100) / 255 * (1 - low))
    assert open_images(tmp_path / "x.npz", float_range=(low, 1.0)).remarks() == []


def test_the_remark_on_floats_says_how_many_images_were_looked_at(tmp_path):
    np.savez(tmp_path / "x.npz", pixels(200) / 255)
    (remark,) = open_images(tmp_path / "x.npz", float_range=(-1.0, 1.0)).remarks()
    assert "the 64 images looked at" in remark


def test_a_float_range_out_of_order_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", pixels(3) / 255)
    with pytest.raises(UsageError, match="black, then white"):
        open_images(tmp_path / "x.npz", float_range=(1.0, 0.0))


@pytest.mark.parametrize("zipped", [False, True])
def test_strict_size_reads_headers_only(tmp_path, zipped):
    folder = tmp_path / "set"
    for name, size in (("1.bmp", (4, 5)), ("2.bmp", (4, 5)), ("3.bmp", (5, 4))):
        save(folder / name, np.zeros((*size, 3), np.uint8))
    whole = (folder / "2.bmp").read_bytes()
    (folder / "2.bmp").write_bytes(whole[:60])  # the header and no pixels
    path = zip_folder(folder, tmp_path / "x.zip") if zipped else folder
    with pytest.raises(BadInput, match=r"2 sizes \(2 of 5x4, 1 of 4x5\), such as 1.bmp and 3.bmp"):
        open_images(path, strict_size=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": pixels()}, "key arr_0 .* got images"),
        ({"arr_0": pixels().astype(np.float32)}, "dtype uint8 .* got float32"),
        ({"arr_0": pixels()[0]}, r"got uint8 \(4, 5, 3\).*images\[None\]"),
        ({"arr_0": pixels()[..., 0]}, r"gray .*np\.stack\(\[images\] \* 3, axis=-1\)"),
        ({"arr_0": pixels()[..., :1]}, r"gray .*repeat\(3, axis=3\)"),
        ({"arr_0": pixels()[..., :1].transpose(0, 3, 1, 2)}, r"gray .*repeat\(3, axis=1\)"),
        ({"arr_0": np.zeros((2, 5, 5, 4), np.uint8)}, r"fourth channel: images\[\.\.\., :3\]"),
        ({"arr_0": pixels().transpose(0, 2, 3, 1)}, r"got uint8 \(3, 5, 3, 4\)"),
        ({"arr_0": pixels()[:0]}, "length 0"),
        ({"arr_0": np.array([{}, {}], dtype=object)}, "allow_pickle=False"),
    ],
    ids=["key", "float", "one", "gray", "last", "first", "alpha", "between", "none", "objects"],
)
def test_unsuitable_npz_is_refused(tmp_path, content, message):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(BadInput, match=message):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize("open_set", [open_images, open_reference])
def test_a_file_that_is_no_archive_is_not_taken_for_a_pickle(tmp_path, open_set):
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(BadInput, match=r"got no zip archive\. Save it again"):
        open_set(tmp_path / "x.npz")


@pytest.mark.parametrize("keep", [0, 100, 1000], ids=["empty", "head", "most"])
def test_torn_npz_is_refused(tmp_path, keep):
    np.savez(tmp_path / "x.npz", pixels(30))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"x\.npz"):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize("open_set", [open_images, open_reference])
def test_an_npz_of_an_unknown_version_is_refused(tmp_path, open_set):
    np.savez(tmp_path / "x.npz", pixels())
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(b"PK\1\2") + 6] = 99
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"arrays in .*x\.npz; got zip file version 9\.9"):
        open_set(tmp_path / "x.npz")


def damage(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [b"3, 4, 5, 3", pixels().tobytes()], ids=["header", "pixels"])
def test_a_changed_byte_in_a_stored_npz_is_found(tmp_path, place):
    np.savez(tmp_path / "x.npz", pixels())
    damage(tmp_path / "x.npz", (tmp_path / "x.npz").read_bytes().index(place))
    said = r"arrays in .*x\.npz; got Bad CRC-32 for file 'arr_0\.npy'\. Save it again"
    source = open_images(tmp_path / "x.npz")
    for index in (0, 1):
        with pytest.raises(BadInput, match=said):
            source.read(index)


def test_a_stored_npz_is_checked_once_for_all_its_parts(tmp_path):
    np.savez(tmp_path / "x.npz", pixels())
    source = open_images(tmp_path / "x.npz")
    source.select([2]).read(0)
    damage(tmp_path / "x.npz", (tmp_path / "x.npz").read_bytes().index(pixels().tobytes()))
    for part in (source, source.select([1])):
        part.read(0)


@pytest.fixture
def tree(tmp_path):
    """Images of two sizes in sub-folders, and what no set contains."""
    folder = tmp_path / "tree"
    for index, name in enumerate(("cat/10.png", "cat/2.png", "Ape/1.PNG", "n10/1.png", "n9/7.png")):
        save(folder / name, pixels(1, 4, 5, seed=index)[0], format="png")
    for name in ("cat/._2.png", ".hidden/1.png", "cat/deep/3.png"):
        save(folder / name)
    (folder / "cat/notes.txt").write_text("x")
    return folder


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_like_the_folder_in_it(tree, tmp_path, compression, recursive):
    archive = zip_folder(tree, tmp_path / "x.ZIP", compression)
    folder, zipped = (open_images(path, recursive=recursive) for path in (tree, archive))
    assert zipped.kind == "zip"
    assert names(zipped) == names(folder)
    for index in range(len(folder)):
        np.testing.assert_array_equal(zipped.read(index), folder.read(index))
    np.testing.assert_equal(zipped.labels, folder.labels)
    chosen = zipped.select([2, 0])
    np.testing.assert_array_equal(chosen.read(1), folder.read(0))


def test_every_source_keeps_the_protocol(tree, tmp_path):
    np.savez(tmp_path / "x.npz", pixels())
    archive = zip_folder(tree, tmp_path / "x.zip")
    for path in (tree, archive, tmp_path / "x.npz"):
        assert isinstance(open_images(path), ImageSource)


def test_a_zip_is_read_from_many_threads_at_once(tmp_path):
    images = pixels(40, 16, 16)
    for index, image in enumerate(images):
        save(tmp_path / f"set/{index}.png", image)
    source = open_images(zip_folder(tmp_path / "set", tmp_path / "x.zip"))
    start = threading.Barrier(8)

    def read_all(_):
        start.wait()
        return np.stack([source.read(index) for index in range(40)])

    with ThreadPoolExecutor(8) as readers:
        for read in readers.map(read_all, range(8)):
            np.testing.assert_array_equal(read, images)


def test_a_zip_with_no_image_says_what_it_has(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.writestr("a.txt", "x")
    with pytest.raises(BadInput, match=r"x\.zip; got 1 \.txt"):
        open_images(tmp_path / "x.zip")
    (tmp_path / "torn.zip").write_bytes((tmp_path / "x.zip").read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"zip archive in .*torn\.zip"):
        open_images(tmp_path / "torn.zip")


def test_a_changed_byte_in_a_zip_is_found(tmp_path):
    save(tmp_path / "set/1.bmp", pixels(1, 16, 16)[0])
    archive = zip_folder(tmp_path / "set", tmp_path / "x.zip")
    content = bytearray(archive.read_bytes())
    content[400] ^= 1  # among the pixels, which a bitmap does not check
    archive.write_bytes(content)
    with pytest.raises(BadInput, match=r"1\.bmp in .*x\.zip; got another CRC-32"):
        open_images(archive).read(0)


def test_an_unusual_compression_is_named(tmp_path):
    save(tmp_path / "set/1.png")
    archive = zip_folder(tmp_path / "set", tmp_path / "x.zip", zipfile.ZIP_LZMA)
    with pytest.raises(BadInput, match="unusual compression"):
        open_images(archive).read(0)


def test_names_in_a_zip_cannot_lead_out_of_a_folder(tmp_path):
    save(tmp_path / "1.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for name in ("/etc/a.png", "../b.png", "c/../../d.png"):
            zipped.write(tmp_path / "1.png", name)
        zipped.filelist[0].filename = "/etc/a.png"  # which write made relative
    assert names(open_images(tmp_path / "x.zip", recursive=True)) == ["etc/a.png"]


def test_labels_are_the_numbers_of_sub_folders_in_natural_order(tree):
    source = open_images(tree)
    assert names(source) == ["Ape/1.PNG", "cat/2.png", "cat/10.png", "n9/7.png", "n10/1.png"]
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 1, 1, 2, 3]
    assert source.select([4, 1]).labels.tolist() == [3, 1]


@pytest.mark.parametrize(
    "files",
    [["1.png", "2.png"], ["a/1.png", "2.png"], ["a/1.png", "a/2.png"], ["a/1.png", "b/c/2.png"]],
    ids=["flat", "mixed", "one folder", "deeper"],
)
def test_other_trees_have_no_labels(tmp_path, files):
    for name in files:
        save(tmp_path / name)
    assert open_images(tmp_path, recursive=True).labels is None


def test_labels_of_an_npz_are_arr_1(tmp_path):
    np.savez(tmp_path / "x.npz", pixels(4), np.array([3, 0, 2, 2], np.uint8))
    source = open_images(tmp_path / "x.npz")
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [3, 0, 2, 2]
    assert source.select([2, 0]).select([1]).labels.tolist() == [3]
    np.savez(tmp_path / "none.npz", pixels(4))
    assert open_images(tmp_path / "none.npz").labels is None


@pytest.mark.parametrize("other", [np.arange(3), np.zeros((4, 2), int), np.zeros(4)])
def test_an_arr_1_that_is_no_labels_is_remarked_upon(tmp_path, other):
    np.savez(tmp_path / "x.npz", pixels(4), other)
    source = open_images(tmp_path / "x.npz")
    assert source.labels is None
    assert "not read as labels" in source.remarks()[0]


@pytest.mark.parametrize("save_array", [np.savez, np.savez_compressed])
def test_channels_first_is_read_where_the_shape_says_so(tmp_path, save_array):
    images = pixels(2, 4, 5)
    save_array(tmp_path / "x.npz", images.transpose(0, 3, 1, 2))
    source = open_images(tmp_path / "x.npz")
    np.testing.assert_array_equal(source.read(1), images[1])


def test_three_rows_of_pixels_are_not_channels(tmp_path):
    images = pixels(2, 3, 3)
    np.savez(tmp_path / "x.npz", images)
    np.testing.assert_array_equal(open_images(tmp_path / "x.npz").read(1), images[1])


def fingerprints(path, *, select=None):
    source = open_images(path)
    return (source if select is None else source.select(select)).fingerprint()


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_fingerprints_follow_content_number_and_order(tmp_path, kind):
    def write(images):
        folder = tmp_path / "set"
        for index, image in enumerate(images):
            save(folder / f"{index}.bmp", image)
        if kind == "folder":
            return folder
        if kind == "zip":
            return zip_folder(folder, tmp_path / "x.zip")
        np.savez(tmp_path / "x.npz", images)
        return tmp_path / "x.npz"

    images = pixels(4)
    first = fingerprints(write(images))
    if kind != "folder":  # where it is the time of writing that tells
        assert fingerprints(write(images)) == first
    path = write(images)
    chosen = {fingerprints(path, select=places) for places in ([0, 1], [1, 0], [0, 1, 2], [3])}
    assert len(chosen) == 4
    assert fingerprints(path, select=range(4)) == fingerprints(path)
    changed = images.copy()
    changed[2, 0, 0, 0] ^= 1
    assert fingerprints(write(changed)) != first


def test_fingerprint_of_a_folder_sees_times_and_names_but_not_its_place(tmp_path):
    for place in ("a", "b"):
        save(tmp_path / place / "1.png")
        os.utime(tmp_path / place / "1.png", ns=(5, 1_000_000_007))
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")
    os.utime(tmp_path / "b/1.png", ns=(5, 1_000_000_008))
    assert fingerprints(tmp_path / "a") != fingerprints(tmp_path / "b")
    os.utime(tmp_path / "b/1.png", ns=(5, 1_000_000_007))
    (tmp_path / "b/1.png").rename(tmp_path / "b/2.png")
    assert fingerprints(tmp_path / "a") != fingerprints(tmp_path / "b")


def test_fingerprint_of_a_file_that_went_is_an_error(tmp_path):
    save(tmp_path / "1.png")
    source = open_images(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadInput, match=r"1\.png"):
        source.fingerprint()


@pytest.mark.parametrize("zipped", [False, True])
def test_what_conversion_changed_is_counted_once_per_image(tmp_path, zipped):
    rgb = pixels(1)[0]
    picture = Image.fromarray(rgb)
    folder = tmp_path / "set"
    folder.mkdir()
    picture.save(folder / "0.png")
    for index in (1, 2):
        picture.convert("L").save(folder / f"{index}.png")
    picture.convert("P").save(folder / "3.png")
    picture.save(folder / "4.jpg")
    Image.fromarray(pixels(1, 7, 2)[0]).save(folder / "5.png")
    path = zip_folder(folder, tmp_path / "x.zip") if zipped else folder
    source = open_images(path)
    for _ in range(2):
        for index in range(6):
            source.read(index)
    converted, lossy, sizes = source.remarks()
    assert f"3 of 6 images in {path} are not RGB" in converted
    assert "2 grey, 1 palette" in converted
    assert f"1 of 6 images in {path} are JPEG" in lossy
    assert "2 sizes (5 of 5x4, 1 of 2x7)" in sizes


@pytest.mark.parametrize(
    ("options", "lossy"),
    [
        ({}, True),
        ({"lossless": True}, False),
        ({"xmp": b"x"}, True),  # in the extended format
        ({"lossless": True, "xmp": b"x"}, False),
        ({"save_all": True, "append_images": [Image.new("RGB", (5, 4))]}, True),
        ({"save_all": True, "append_images": [Image.new("RGB", (5, 4))], "lossless": True}, False),
    ],
    ids=["plain", "lossless", "extended", "extended lossless", "frames", "lossless frames"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_webp_with_loss_is_told_as_jpeg_is(tmp_path, options, lossy, zipped):
    save(tmp_path / "set/1.webp", **options)
    save(tmp_path / "set/2.jpg")
    path = zip_folder(tmp_path / "set", tmp_path / "x.zip") if zipped else tmp_path / "set"
    source = open_images(path)
    found = [source.read(index) for index in range(2)]
    assert np.array_equal(found[0], pixels(1)[0]) is not lossy
    (told,) = source.remarks()
    assert told.startswith(f"{1 + lossy} of 2 images in {path} are JPEG or lossy WebP, whose loss")


def test_plain_images_of_one_size_need_no_remark(tmp_path):
    save(tmp_path / "1.png")
    source = open_images(tmp_path)
    source.read(0)
    assert source.remarks() == []


@pytest.mark.parametrize("zipped", [False, True])
def test_skipping_leaves_out_and_names_bad_images(tree, tmp_path, zipped):
    (tree / "cat/2.png").write_bytes(b"no image")
    save(tree / "n9/8.png", np.full((4, 5), 40_000, np.uint16))
    path = zip_folder(tree, tmp_path / "x.zip") if zipped else tree
    source = open_images(path, on_bad_image="skip")
    assert names(source) == ["Ape/1.PNG", "cat/10.png", "n9/7.png", "n10/1.png"]
    assert source.labels.tolist() == [0, 1, 2, 3]
    expected = f"2 images in {path} cannot be read and are left out of n: cat/2.png, n9/8.png."
    deeper = f"1 images in folders inside of sub-folders of {path} were not read; --recursive"
    for remarks in (source.remarks(), source.select([0]).remarks()):
        assert remarks[0] == expected
        assert remarks[1].startswith(deeper)
        assert len(remarks) == 2
    assert source.fingerprint() != open_images(path).fingerprint()


def test_skipping_leaves_a_good_set_as_it_is(tree):
    shutil.rmtree(tree / "cat/deep")
    source = open_images(tree, on_bad_image="skip")
    assert len(source) == 5
    assert source.remarks() == []


def test_a_set_of_bad_images_only_is_an_error(tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"got 1 that cannot, 1\.png among them"):
        open_images(tmp_path, on_bad_image="skip")


class Counting:
    """Images that know how many of them were asked for."""

    path, kind, labels, contents = None, "test", None, None

    def __init__(self, n):
        self.n = n
        self.reads = 0

    def __len__(self):
        return self.n

    def read(self, index):
        self.reads += 1
        return np.full((1, 1, 3), index, np.uint8)

    def select(self, indices):
        return self

    def fingerprint(self):
        return ""

    def remarks(self):
        return []


def test_reading_ahead_keeps_the_order_and_holds_few():
    source = Counting(200)
    images = read_ahead(source)
    assert next(images).item(0) == 0
    time.sleep(0.3)  # enough for threads that know no bound
    assert source.reads <= 33
    assert [image.item(0) for image in images] == list(range(1, 200))
    assert source.reads == 200


@pytest.mark.parametrize("zipped", [False, True])
def test_picture_sets_travel_to_other_processes(tree, tmp_path, zipped):
    source = open_images(zip_folder(tree, tmp_path / "x.zip") if zipped else tree)
    arrived = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(arrived.read(3), source.read(3))
    assert arrived.fingerprint() == source.fingerprint()
