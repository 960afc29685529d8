import io
import os
import shutil
import tarfile
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.io
from PIL import Image

from genmetrics.images.pictures import EXTENSIONS
from mimflow_train.data import index, naming, scan
from mimflow_train.data.folder import ImageReader
from mimflow_train.data.index import index_path
from mimflow_train.data.layout import read_layout, require_apart
from mimflow_train.errors import ConfigError, DataError


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of noise: 23 in train/, 5 in val/, three classes, one nested deeper."""
    draw = np.random.default_rng(0)
    counts = {"train/n1": 11, "train/n2": 5, "train/n3/deep": 7, "val/n1": 3, "val/n3": 2}
    for place, count in counts.items():
        folder = tmp_path / "photos" / place
        folder.mkdir(parents=True)
        for number in range(count):
            noise = Image.fromarray(draw.integers(0, 256, (19, 23, 3), dtype=np.uint8))
            noise.save(folder / f"{place[:1]}_{number:02}.JPEG")
    return tmp_path / "photos"


def pack(folder, path, around=""):
    """Put what is in a folder into a tar, in no order."""
    with tarfile.open(path, "w") as tar:
        for each in sorted(folder.rglob("*"), key=lambda each: each.name[::-1]):
            if each.is_file():
                tar.add(each, f"{around}{each.relative_to(folder)}")
    return path


def pack_classes(folder, out):
    """Write one tar for each class folder."""
    out.mkdir(parents=True)
    for each in folder.iterdir():
        pack(each, out / f"{each.name}.tar")
    return out


def pack_imagenet(photos, out):
    """Write the tar of tars, the flat validation tar and the kit with its classes."""
    pack_classes(photos / "train", out / "classes")
    pack(out / "classes", out / "ILSVRC2012_img_train.tar")
    shutil.rmtree(out / "classes")
    truth = {}
    with tarfile.open(out / "ILSVRC2012_img_val.tar", "w") as tar:
        images = sorted((photos / "val").glob("*/*"), key=lambda each: each.name)
        for number, each in enumerate(images):
            truth[number] = each.parent.name
            tar.add(each, f"ILSVRC2012_val_{number:08}.JPEG")
            each.rename(each.with_name(f"ILSVRC2012_val_{number:08}.JPEG"))
    write_kit(out / "ILSVRC2012_devkit_t12.tar.gz", list(truth.values()))
    return out


def write_kit(path, classes):
    """Write a development kit whose numbers are not in the order of the classes."""
    numbers = {"n1": 3, "n2": 1, "n3": 2}
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for row, (name, number) in enumerate(sorted(numbers.items(), key=lambda each: each[1])):
        synsets[row] = (number, name, "some words")
    table = io.BytesIO()
    scipy.io.savemat(table, {"synsets": synsets}, do_compression=True)
    truth = "".join(f"{numbers[name]}\n" for name in classes).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (
            ("meta.mat", table.getvalue()),
            ("ILSVRC2012_validation_ground_truth.txt", truth),
        ):
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def assert_same(layout, expected):
    """Same classes, files, bytes and pixels in the same order."""
    assert layout.class_names == expected.class_names
    assert layout.fingerprint == expected.fingerprint
    for some, others in ((layout.train, expected.train), (layout.held_out, expected.held_out)):
        assert [some.name(i).removeprefix("train/") for i in range(len(some))] == [
            others.name(i).removeprefix("train/") for i in range(len(others))
        ]
        for i in range(len(some)):
            assert some.read(i) == others.read(i)
        pixels = [ImageReader(files, 8).decode(0).pixels for files in (some, others)]
        assert pixels[0].equal(pixels[1])


def test_imagenet_tars_are_the_folder_that_they_unpack_to(photos, tmp_path):
    tars = pack_imagenet(photos, tmp_path / "tars")
    assert_same(read_layout(tars), read_layout(photos))


def test_validation_tar_serves_beside_a_folder_to_train_on(photos, tmp_path):
    tars = pack_imagenet(photos, tmp_path / "tars")
    (tars / "ILSVRC2012_img_train.tar").unlink()
    shutil.copytree(photos / "train", tars / "train")
    assert_same(read_layout(tars), read_layout(photos))


def test_validation_tar_without_its_classes_is_left_out_aloud(photos, tmp_path):
    tars = pack_imagenet(photos, tmp_path / "tars")
    (tars / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    shutil.rmtree(photos / "val")
    said = []
    assert_same(read_layout(tars, said.append), read_layout(photos))
    assert len(said) == 1
    assert "ILSVRC2012_img_val.tar is left out" in said[0]


def test_validation_tar_with_the_classes_of_another_is_refused(photos, tmp_path):
    tars = pack_imagenet(photos, tmp_path / "tars")
    write_kit(tars / "ILSVRC2012_devkit_t12.tar.gz", ["n1"] * 4)
    with pytest.raises(DataError, match=r"Expected 4 images in .*img_val\.tar.*got 5"):
        read_layout(tars)


def test_damaged_kit_is_one_sentence(photos, tmp_path):
    tars = pack_imagenet(photos, tmp_path / "tars")
    (tars / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no tar")
    with pytest.raises(DataError, match="Expected ImageNet's development kit"):
        read_layout(tars)


@pytest.mark.parametrize("split", ["", "train"])
def test_class_tars_are_class_folders(photos, tmp_path, split):
    tars = tmp_path / "tars"
    pack_classes(photos / "train", tars / split)
    shutil.rmtree(photos / "val")
    if not split:
        photos = photos / "train"
    assert_same(read_layout(tars), read_layout(photos))


@pytest.mark.parametrize("around", ["", "./", "data/all/"])
def test_one_tar_is_the_folder_that_it_unpacks_to(photos, tmp_path, around):
    assert_same(read_layout(pack(photos, tmp_path / "all.tar", around)), read_layout(photos))


def test_every_class_of_two_or_more_has_an_image_to_train_on_and_one_to_judge(tmp_path):
    for count in range(1, 31):
        for number in range(count):
            file = tmp_path / f"class_{count:02}" / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            file.touch()
    layout = read_layout(tmp_path)
    train, held_out = (np.bincount(each.labels) for each in (layout.train, layout.held_out))
    assert (train + held_out).tolist() == list(range(1, 31))
    assert (train >= 1).all()
    assert (held_out[1:] >= 1).all()
    assert 0.1 < held_out[9:].sum() / (train + held_out)[9:].sum() < 0.2


def test_a_folder_is_described_with_the_classes_that_nothing_judges(photos):
    text = "23 images to train on and 5 held out, in 3 classes"
    assert read_layout(photos).described == (f"{text}; 1 of them without a held-out image (n2).")
    (photos / "val" / "n2").mkdir()
    (photos / "val" / "n3" / "v_01.JPEG").rename(photos / "val" / "n2" / "v_01.JPEG")
    assert read_layout(photos).described == f"{text}."


def test_class_tar_may_hold_its_folder(photos, tmp_path):
    (tmp_path / "tars").mkdir()
    for each in (photos / "train").iterdir():
        pack(each, tmp_path / "tars" / f"{each.name}.tar", f"{each.name}/")
    assert read_layout(tmp_path / "tars").train.name(0) == "n1/t_00.JPEG"


def fill(root, *names):
    """Write files that are called images."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * number)


@pytest.mark.parametrize(
    ("split", "expected"),
    [(True, "d8b8d139543f1281f9ccbcf3e4794c9b"), (False, "6b50eb1259c8c5aae79d8b355f733ff8")],
)
def test_fingerprint_of_ordinary_images_stays_so_that_runs_go_on(tmp_path, split, expected):
    prefix = "train/" if split else ""
    fill(tmp_path, *(f"{prefix}{name}/{i}.png" for name in "cab" for i in (2, 10, 1)))
    if split:
        fill(tmp_path, "val/a/1.jpg", "val/c/deep/1.JPEG")
    assert read_layout(tmp_path).fingerprint == expected


def remarks(root):
    said = []
    layout = read_layout(root, said.append)
    assert said == ([layout.remark] if layout.remark else [])
    return layout.remark


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["valid", "validation"])
def test_valid_and_validation_beside_train_are_val(photos, tmp_path, name, packed):
    (photos / "val").rename(photos / name)
    layout = read_layout(pack(photos, tmp_path / "all.tar") if packed else photos)
    assert [layout.held_out.name(i) for i in (0, 4)] == [
        f"{name}/n1/v_00.JPEG",
        f"{name}/n3/v_01.JPEG",
    ]
    assert len(layout.train) == 23
    assert ImageReader(layout.held_out, 8).decode(4).pixels.shape == (3, 8, 8)
    assert not layout.remark


def test_val_comes_before_valid(photos):
    shutil.copytree(photos / "val", photos / "valid")
    assert read_layout(photos).held_out.name(0) == "val/n1/v_00.JPEG"
    assert remarks(photos) == "5 image(s) of valid/ are left out; only train/ and val/ are read."


def test_valid_without_train_is_a_class_as_ever(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("a", "valid") for i in range(9)))
    assert read_layout(tmp_path).class_names == ("a", "valid")


@pytest.mark.parametrize("packed", [False, True])
def test_other_splits_are_left_out_aloud(photos, tmp_path, packed):
    fill(photos, "test/1.png", "test/n1/2.png", "Valid/n1/1.png", "test/readme.txt")
    root = pack(photos, tmp_path / "all.tar") if packed else photos
    assert remarks(root) == (
        "1 image(s) of Valid/ and 2 of test/ are left out; only train/ and val/ are read."
    )


@pytest.mark.parametrize(
    ("names", "packed"),
    [
        *product(("Train Val", "training validation", "Train val"), (False, True)),
        ("TRAIN", False),  # in a tar it is the folder around them all
    ],
)
def test_splits_that_would_be_classes_are_refused(photos, tmp_path, names, packed):
    (photos / "train").rename(photos / names.split()[0])
    if " " in names:
        (photos / "val").rename(photos / names.split()[1])
    else:
        shutil.rmtree(photos / "val")
    root = pack(photos, tmp_path / "all.tar") if packed else photos
    with pytest.raises(DataError, match=f"got {names.split()[0]}.* Rename ") as caught:
        read_layout(root)
    assert str(caught.value).count(". ") == 1


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.png" for name in ("Bus", "Train") for i in range(9)))
    assert read_layout(tmp_path).class_names == ("Bus", "Train")


@pytest.mark.parametrize("packed", [False, True])
def test_loose_images_are_left_out_aloud(photos, tmp_path, packed):
    before = read_layout(photos)
    fingerprint = before.fingerprint
    fill(photos, "1.png", "train/2.png", "val/3.png", "train/notes.txt")
    root = pack(photos, tmp_path / "all.tar") if packed else photos
    assert remarks(root) == "3 image(s) that lie in no class folder are left out."
    assert read_layout(root).fingerprint == fingerprint


def test_tar_without_classes_is_of_one_as_its_folder_is(photos, tmp_path):
    shutil.rmtree(photos)
    fill(photos, "train/1.png", "train/2.png", "val/1.png", "val/2.png")
    layout = read_layout(pack(photos, tmp_path / "all.tar"))
    assert (layout.class_names, layout.fingerprint) == (("all",), read_layout(photos).fingerprint)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("flat", "remedy"),
    [
        (
            "val",
            "or, if they are ImageNet's, give a folder with ILSVRC2012_img_val.tar and "
            "ILSVRC2012_devkit_t12.tar.gz in place of val.",
        ),
        ("train", "or take those of val out of theirs."),
    ],
)
def test_classes_in_one_split_alone_are_refused(photos, tmp_path, flat, remedy, packed):
    shutil.rmtree(photos / flat)
    fill(photos, f"{flat}/1.JPEG", f"{flat}/2.JPEG")
    root = pack(photos, tmp_path / "all.tar") if packed else photos
    other = {"val": "train", "train": "val"}[flat]
    with pytest.raises(DataError) as caught:
        read_layout(root)
    assert str(caught.value) == (
        f"Expected the images of {root / flat} in class folders, as those of {root / other} are; "
        f"got them in none. Sort them into such folders, {remedy}"
    )


def test_a_class_that_is_held_out_alone_is_refused(photos):
    (photos / "val/n1").rename(photos / "val/all")
    with pytest.raises(DataError, match=r"classes that the training folder has; got also all\. Re"):
        read_layout(photos)


@pytest.mark.parametrize("packed", ["", "whole", "classes"])
def test_files_of_other_kinds_are_left_out_aloud(photos, tmp_path, packed):
    fill(photos, "train/n1/1.GIF", "train/n1/2.gif", "train/n2/3.heic", "train/n2/notes.txt")
    fill(photos, "train/n1/.4.gif", "val/n1/5.avif")
    root = photos
    if packed == "whole":
        root = pack(photos, tmp_path / "all.tar")
    elif packed:
        root = pack_classes(photos / "train", tmp_path / "tars/train").parent
        pack_classes(photos / "val", tmp_path / "tars/val")
    assert remarks(root) == (
        "4 file(s) of kinds that are not read are left out (2 .gif, 1 .avif, 1 .heic)."
    )


def test_no_kind_is_both_read_and_not():
    assert not naming.UNREAD & set(EXTENSIONS)


def test_tiff_is_read(photos):
    noise = Image.effect_noise((9, 9), 50).convert("RGB")
    noise.save(photos / "train/n1/a.tif")
    pixels = ImageReader(read_layout(photos).train, 9).decode(0).pixels
    assert np.array_equal(pixels.movedim(0, -1).numpy(), np.array(noise))


@pytest.mark.parametrize("place", ["train/n4", "val", "train/n5.png", "train/n1/new.png"])
def test_link_that_leads_nowhere_is_left_out_aloud(photos, place):
    shutil.rmtree(photos / place, ignore_errors=True)
    (photos / place).symlink_to(photos / "nowhere")
    assert remarks(photos) == f"1 link(s) that lead nowhere are left out ({place})."


def test_a_file_that_cannot_be_looked_at_is_named_when_it_is_to_be_decoded(photos, monkeypatch):
    """As a link into a folder that may not be entered."""
    image, names = scan._image, []

    def refused(found, entry, name):
        if name != "train/n1/t_01.JPEG":
            return image(found, entry, name)
        names.append(name)

        entry = Mock(spec=os.DirEntry)
        entry.stat.side_effect = PermissionError(13, "Permission denied")
        return image(found, entry, name)

    monkeypatch.setattr(scan, "_image", refused)
    assert len(read_layout(photos).train) == 23
    assert names == ["train/n1/t_01.JPEG"]


def test_linked_folders_are_followed_as_classes_and_else_left_out_aloud(photos, tmp_path):
    (photos / "train/n2").rename(tmp_path / "n2")
    (photos / "train/n2").symlink_to(tmp_path / "n2")
    before = read_layout(photos).fingerprint
    (photos / "train/n1/more").symlink_to(tmp_path / "n2")
    assert remarks(photos) == (
        "1 link(s) to folders inside of or around classes are not followed (train/n1/more)."
    )
    assert read_layout(photos).fingerprint == before


@pytest.mark.parametrize(
    ("place", "target"),
    [("train/latest", "."), ("train/latest", ".."), ("val/n1", "../train/../.."), ("valid", ".")],
)
def test_links_back_to_a_folder_around_are_no_classes_and_left_out_aloud(photos, place, target):
    shutil.rmtree(photos / place, ignore_errors=True)
    before = read_layout(photos)
    expected = before.class_names, before.fingerprint
    (photos / place).symlink_to(target)
    assert remarks(photos) == (
        f"1 link(s) to folders inside of or around classes are not followed ({place})."
    )
    layout = read_layout(photos)
    assert (layout.class_names, layout.fingerprint) == expected


def test_remarks_name_a_few(photos):
    for number in range(9):
        (photos / f"train/m{number}").symlink_to("nowhere")
    fill(photos, "1.png", "test/1.png", "train/n1/x.gif")
    assert remarks(photos) == (
        "1 image(s) of test/ are left out; only train/ and val/ are read. "
        "1 image(s) that lie in no class folder are left out. "
        "1 file(s) of kinds that are not read are left out (1 .gif). "
        "9 link(s) that lead nowhere are left out (train/m0, train/m1, train/m2, ...)."
    )


def hide(folder):
    """Put what computers leave behind at every level of a folder; all of it looks like images."""
    image = (folder / "train/n1/t_00.JPEG").read_bytes()
    for place in (
        ".hidden/x.png",
        "__MACOSX/train/n1/x.png",
        "train/.ipynb_checkpoints/x.png",
        "train/__MACOSX/x.png",
        "train/n1/.ipynb_checkpoints/t_00-checkpoint.JPEG",
        "train/n3/deep/__MACOSX/x.png",
        "train/n2/.t_00.png",
        "val/.cache/x.png",
        "val/n1/.ipynb_checkpoints/x.png",
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(image)


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_files_and_folders_are_passed_over(photos, tmp_path, packed):
    before = read_layout(photos)
    fingerprint = before.fingerprint
    hide(photos)
    root = pack(photos, tmp_path / "all.tar", "./data/") if packed else photos
    assert read_layout(root).class_names == before.class_names
    assert read_layout(root).fingerprint == fingerprint


def test_hidden_folders_are_no_classes(photos):
    before = read_layout(photos / "train")
    hide(photos)
    assert read_layout(photos / "train").fingerprint == before.fingerprint


@pytest.mark.parametrize("imagenet", [False, True])
def test_hidden_members_and_tars_are_passed_over(photos, tmp_path, imagenet):
    before = read_layout(photos)
    for hidden in (".ipynb_checkpoints/x.png", "__MACOSX/n1/x.png"):
        (photos / "train/n1" / hidden).parent.mkdir(parents=True)
        shutil.copy(photos / "train/n1/t_00.JPEG", photos / "train/n1" / hidden)
    if imagenet:
        tars = tmp_path / "tars"
        pack_classes(photos / "train", tars / "classes")
        (tars / "classes" / "._n1.tar").write_bytes(b"what macOS knows about it")
        pack(tars / "classes", tars / "ILSVRC2012_img_train.tar")
        shutil.rmtree(tars / "classes")
        shutil.copytree(photos / "val", tars / "val")
    else:
        tars = pack_classes(photos / "train", tmp_path / "tars" / "train").parent
        (tars / "train" / "._n1.tar").write_bytes(b"what macOS knows about it")
        pack_classes(photos / "val", tars / "val")
    assert read_layout(tars).fingerprint == before.fingerprint


def test_root_itself_may_be_hidden(photos, tmp_path):
    before = read_layout(photos).fingerprint
    photos.rename(tmp_path / ".photos")
    assert read_layout(tmp_path / ".photos").fingerprint == before


@pytest.mark.parametrize("kept", [700, 0.5, 0.9])
def test_truncated_tar_is_one_sentence(photos, tmp_path, kept):
    whole = pack(photos, tmp_path / "all.tar")
    end = whole.stat().st_size - 10240  # where its padding begins, at the latest
    whole.write_bytes(whole.read_bytes()[: int(kept * end) if kept < 1 else kept])
    with pytest.raises(DataError, match=r"^Expected a whole, uncompressed tar; .*all\.tar is none"):
        read_layout(whole)


def test_truncated_inner_tar_is_one_sentence(photos, tmp_path):
    inner = pack_classes(photos / "train", tmp_path / "inner")
    content = (inner / "n2.tar").read_bytes()
    (inner / "n2.tar").write_bytes(content[:1500])
    (tmp_path / "outer").mkdir()
    pack(inner, tmp_path / "outer" / "ILSVRC2012_img_train.tar")
    with pytest.raises(DataError, match="Expected a whole, uncompressed tar"):
        read_layout(tmp_path / "outer")


def test_compressed_tar_is_refused(photos, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w:gz") as tar:
        tar.add(photos, "photos")
    with pytest.raises(DataError, match="uncompressed tar"):
        read_layout(tmp_path / "all.tar")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("photo.jpg", "Give the folder that has a folder for each class."),
        ("x.zip", "Unpack it and give the folder."),
        ("x.tar.gz", "Unpack it and give the folder."),
        ("x.npz", "Save its images as files in a folder for each class."),
        ("notes.txt", "Give a folder with a folder for each class."),
        ("empty", "Give a folder with a folder for each class."),
    ],
)
def test_file_that_is_no_tar_is_told_what_to_give(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"" if name == "empty" else b"PK" * 700)
    with pytest.raises(DataError) as caught:
        read_layout(tmp_path / name)
    assert str(caught.value) == (
        f"Expected a folder, or a tar that is not compressed; got the file {tmp_path / name}. "
        f"{advice}"
    )


def test_tar_needs_no_ending(photos, tmp_path):
    assert_same(read_layout(pack(photos, tmp_path / "all")), read_layout(photos))
    (tmp_path / "all").write_bytes((tmp_path / "all").read_bytes()[:9000])
    with pytest.raises(DataError, match="Expected a whole, uncompressed tar"):
        read_layout(tmp_path / "all")


def test_tar_that_shrank_since_it_was_indexed_is_an_unreadable_image(photos, tmp_path):
    path = pack(photos, tmp_path / "all.tar")
    files = read_layout(path).train
    path.write_bytes(path.read_bytes()[: int(files.offsets.max()) + 5])
    with pytest.raises(OSError, match="the tar ends"):
        files.read(int(files.offsets.argmax()))


def test_of_members_of_one_name_the_last_counts_as_it_is_unpacked(photos, tmp_path):
    path = pack(photos, tmp_path / "all.tar")
    Image.new("RGB", (200, 200), "red").save(photos / "train/n1/t_03.JPEG")
    with tarfile.open(path, "a") as tar:
        tar.add(photos / "train/n1/t_03.JPEG", "train/n1/t_03.JPEG")
    assert_same(read_layout(path), read_layout(photos))
    assert read_layout(path).fingerprint == read_layout(photos).fingerprint


def test_links_in_tars_are_left_out_aloud(photos, tmp_path):
    os.link(photos / "train/n1/t_00.JPEG", photos / "train/n1/u_00.JPEG")
    (photos / "train/n1/w_00.JPEG").symlink_to("t_01.JPEG")
    layout = read_layout(pack(photos, tmp_path / "all.tar"))
    assert len(layout.train) == 23
    assert layout.remark == (
        "2 image(s) that a tar holds as links are left out; "
        "`tar --hard-dereference -h` packs them as files."
    )


def test_names_may_be_any_bytes(photos):
    (photos / "train/n1").rename(os.fsdecode(os.fsencode(photos) + b"/train/caf\xe9"))
    shutil.rmtree(photos / "val/n1")
    layout = read_layout(photos)
    assert os.fsencode(layout.class_names[0]) == b"caf\xe9"
    assert len(layout.fingerprint) == 32


@pytest.mark.parametrize("place", ["runs/mine", "", "n1"])
def test_nothing_is_written_among_the_images(photos, place):
    with pytest.raises(ConfigError, match=f"outside of {photos}/train to write to"):
        require_apart(photos / "train" / place, photos)
    with pytest.raises(ConfigError, match=f"got {photos / 'train' / place}. Name one elsewhere"):
        require_apart(photos / "train" / place, photos / "train")


def test_beside_train_and_in_hidden_folders_there_is_room(photos):
    require_apart(photos / "runs/mine", photos)
    require_apart(photos / "train/.runs", photos / "train")
    require_apart(photos.parent / "runs", photos / "train")


@pytest.mark.parametrize("change", ["add", "remove", "rename", "resize", "move"])
def test_fingerprint_tells_a_changed_list(photos, change):
    before = read_layout(photos).fingerprint
    first, second = photos / "train/n1/t_00.JPEG", photos / "train/n2/t_00.JPEG"
    if change == "add":
        shutil.copy(first, first.with_name("x.JPEG"))
    elif change == "remove":
        first.unlink()
    elif change == "rename":
        first.rename(first.with_name("t_.JPEG"))
    elif change == "resize":
        first.write_bytes(first.read_bytes() + b" ")
    else:
        first.rename(second.with_name("moved.JPEG"))
    assert read_layout(photos).fingerprint != before


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Even small folders' indexes are kept, in a folder of the test's."""
    monkeypatch.setenv("MIMFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_LEAST_FILES", 1)
    return tmp_path / "cache"


def age(root):
    """Make a folder or tar look as if nothing had changed for a while."""
    for each in (each for each in [root, *root.rglob("*")] if each.exists()):
        os.utime(each, (1_000_000_000, 1_000_000_000))


def scans(monkeypatch):
    """Return a list that grows with each look through a folder."""
    from mimflow_train.data import layout

    looked, scan = [], layout.scan_images

    def counted(root):
        looked.append(root)
        return scan(root)

    monkeypatch.setattr(layout, "scan_images", counted)
    return looked


@pytest.mark.parametrize("packed", [False, True])
def test_second_look_at_an_unchanged_root_reads_the_index(
    photos, tmp_path, kept, monkeypatch, packed
):
    root = pack(photos, tmp_path / "all.tar") if packed else photos
    age(root)
    looked = scans(monkeypatch)
    first = read_layout(root)
    assert_same(read_layout(root), first)
    assert looked == [root]


@pytest.mark.parametrize("place", ["new", "train/n4", "train/n1", "train/n3/deep"])
def test_changed_folder_is_looked_through_again(photos, kept, place):
    age(photos)
    before = read_layout(photos)
    (photos / place).mkdir(exist_ok=True)
    shutil.copy(photos / "train/n1/t_00.JPEG", photos / place / "x.JPEG")
    found = len(read_layout(photos).train) - len(before.train)
    assert found == (0 if place == "new" else 1)


def test_rewritten_tar_is_looked_through_again(photos, tmp_path, kept):
    path = pack(photos, tmp_path / "all.tar")
    age(path)
    before = len(read_layout(path).train)
    (photos / "train/n1/t_00.JPEG").unlink()
    pack(photos, path)
    assert len(read_layout(path).train) == before - 1


def test_folder_that_may_be_changing_is_not_kept(photos, kept):
    read_layout(photos)
    assert not index_path(photos).exists()


def test_damaged_index_is_made_anew(photos, kept):
    age(photos)
    first = read_layout(photos)
    index_path(photos).write_bytes(index_path(photos).read_bytes()[:900])
    assert_same(read_layout(photos), first)
    assert index_path(photos).stat().st_size > 900


def test_index_keeps_what_was_left_out(photos, kept, monkeypatch):
    fill(photos, "1.png", "test/1.png")
    age(photos)
    first, looked = remarks(photos), scans(monkeypatch)
    assert remarks(photos) == first != ""
    assert not looked


def test_index_is_not_kept_of_links_that_lead_nowhere_yet(photos, tmp_path, kept):
    (photos / "train/n4").symlink_to(tmp_path / "n4")
    age(photos / "train")
    age(photos)
    read_layout(photos)
    shutil.copytree(photos / "train/n1", tmp_path / "n4")
    assert len(read_layout(photos).class_names) == 4


def test_index_of_an_earlier_format_is_made_anew(photos, kept, monkeypatch):
    age(photos)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_FORMAT", 2)  # of before hidden folders were passed over
        read_layout(photos)
    looked = scans(monkeypatch)
    read_layout(photos)
    assert looked == [photos]


def test_index_lies_in_the_cache_folder(photos, kept):
    age(photos)
    read_layout(photos)
    assert [each.parent for each in kept.rglob("*.npz")] == [kept / "indexes"]


def test_index_that_cannot_be_written_stops_nothing(photos, kept):
    age(photos)
    Path(kept).write_text("a file where the folder should be")
    assert len(read_layout(photos).train) == 23
