import numpy as np
import pytest
from PIL import Image

from genmetrics import BadInput, open_images


def pixels(n=3, height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1)[0] if image is None else image).save(path, **options)


def names(source):
    return [file.relative_to(source.path).as_posix() for file in source.files]


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
    for name in ("a.png", "b.JPG", "c.Jpeg", "d.webp", "e.BMP"):
        save(tmp_path / name)
    source = open_images(str(tmp_path))
    assert len(source) == 5
    assert all(source.read(i).shape == (4, 5, 3) for i in range(5))


def test_folders_below_the_first_level_need_recursive(tmp_path):
    for name in ("0.png", "cat/1.png", "cat/old/2.png"):
        save(tmp_path / name)
    assert names(open_images(tmp_path)) == ["0.png", "cat/1.png"]
    assert names(open_images(tmp_path, recursive=True)) == ["0.png", "cat/1.png", "cat/old/2.png"]


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
    with pytest.raises(BadInput, match=r"got 2 \.txt, 1 \.gif, 1 without extension.*--recursive"):
        open_images(tmp_path)


def test_folder_without_files(tmp_path):
    with pytest.raises(BadInput, match="got no files"):
        open_images(tmp_path, recursive=True)


def test_file_of_another_kind_is_refused(tmp_path):
    save(tmp_path / "1.png")
    with pytest.raises(BadInput, match="Pass its folder"):
        open_images(tmp_path / "1.png")


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
    ("content", "message"),
    [
        ({"images": pixels()}, "key arr_0 .* got images"),
        ({"arr_0": pixels().astype(np.float32)}, "dtype uint8 .* got float32"),
        ({"arr_0": pixels()[0]}, r"got uint8 \(4, 5, 3\)"),
        ({"arr_0": pixels().transpose(0, 3, 1, 2)}, r"got uint8 \(3, 3, 4, 5\)"),
        ({"arr_0": pixels()[:0]}, "length 0"),
        ({"arr_0": np.array([{}, {}], dtype=object)}, "allow_pickle=False"),
    ],
    ids=["no key", "float", "one image", "channels first", "none", "objects"],
)
def test_unsuitable_npz_is_refused(tmp_path, content, message):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(BadInput, match=message):
        open_images(tmp_path / "x.npz")


@pytest.mark.parametrize("keep", [0, 100, 1000], ids=["empty", "head", "most"])
def test_torn_npz_is_refused(tmp_path, keep):
    np.savez(tmp_path / "x.npz", pixels(30))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"x\.npz"):
        open_images(tmp_path / "x.npz")
