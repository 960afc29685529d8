import shutil

import pytest
import torch
from PIL import Image

from genmetrics.images.adm_crop import adm_crop_picture
from mimflow_train.data.decoding import load_rgb
from mimflow_train.data.emoji import emoji_images
from mimflow_train.data.folder import folder_images
from mimflow_train.data.glyphs import CLASS_NAMES, split_glyphs
from mimflow_train.data.images import MemoryImages, to_unit
from mimflow_train.data.layout import read_layout
from mimflow_train.errors import DataError


def images_of(folder, tmp_path, size=16):
    warnings = []
    bad_list = tmp_path / "bad.txt"
    data = folder_images(read_layout(folder), size, bad_list=bad_list, warn=warnings.append)
    return data, warnings, bad_list


def test_no_glyph_is_in_both_splits():
    train, held_out = split_glyphs()
    assert {glyph.base for glyph in train}.isdisjoint(glyph.base for glyph in held_out)
    assert len({glyph.base for glyph in held_out}) == len(held_out)


def test_emoji_have_the_counts_of_the_fact_sheet():
    data = emoji_images(8)
    assert (len(data.train.images), len(data.held_out.images)) == (3047, 351)
    assert data.train.labels.unique().tolist() == list(range(len(CLASS_NAMES)))
    assert "CC-BY 4.0" in data.attribution


def test_transparent_ground_is_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_rgb(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def wide(mode, name, folder):
    """Save a picture of more than 8 bits a channel, which Pillow would clip at 255."""
    Image.new(mode, (20, 24), 3000).save(folder / name)


@pytest.mark.parametrize(
    ("mode", "name", "bits"),
    [("I;16", "3.png", "16"), ("I", "3.tif", "more than 8"), ("F", "3.tif", "more than 8")],
)
def test_more_than_eight_bits_a_channel_are_refused(tmp_path, mode, name, bits):
    wide(mode, name, tmp_path)
    with pytest.raises(OSError, match=f"^{bits} bits a channel; save it with 8$"):
        load_rgb(tmp_path / name)


def test_picture_of_16_bits_is_replaced_with_its_reason(folder, tmp_path):
    wide("I;16", "3.png", folder / "blue")
    data, warnings, bad_list = images_of(folder, tmp_path)
    blue = data.train.stack(torch.nonzero(data.train.labels == 0).flatten().tolist())
    assert blue[:, 1].unique().tolist() == [20]
    assert len(warnings) == 1
    assert "(16 bits a channel; save it with 8)" in warnings[0]
    assert bad_list.read_text() == f"{folder / 'blue' / '3.png'}\n"


def test_too_many_pictures_of_16_bits_end_the_run_with_their_reason(folder, tmp_path):
    for number in (3, 4):
        wide("I;16", f"{number}.png", folder / "blue")
    with pytest.raises(DataError, match=r"got 2: .*16 bits a channel; save it with 8"):
        images_of(folder, tmp_path)


def test_crop_keeps_the_centre():
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (16, 0, 48, 32))
    assert adm_crop_picture(image, 32).getextrema() == ((255, 255),) * 3


def test_folder_classes_are_its_sub_folders(folder, tmp_path):
    data, warnings, _ = images_of(folder, tmp_path)
    assert data.class_names == ("blue", "red")
    assert len(data.train.images) + len(data.held_out.images) == 40
    red = to_unit(data.train.stack(torch.nonzero(data.train.labels == 1).flatten().tolist()))
    assert red[:, 0].mean() > red[:, 1].mean()
    assert isinstance(data.train.images, MemoryImages)
    assert not warnings


def test_val_folder_is_held_out(folder, tmp_path):
    (folder.parent / "split").mkdir()
    folder.rename(folder.parent / "split" / "train")
    for name in ("blue", "red"):
        (folder.parent / "split" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder.parent / "split" / "val" / name / "x.png")
    data, _, _ = images_of(folder.parent / "split", tmp_path)
    assert (len(data.train.images), len(data.held_out.images)) == (40, 2)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_one_corrupt_image_is_replaced_and_listed(folder, tmp_path, content):
    path = folder / "blue" / "3.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    data, warnings, bad_list = images_of(folder, tmp_path)
    assert len(data.train.images) + len(data.held_out.images) == 40
    assert len(warnings) == 1
    assert f"Cannot decode {path}" in warnings[0]
    assert bad_list.read_text() == f"{path}\n"


def test_stand_in_is_of_the_same_class(folder, tmp_path):
    names = sorted(path.name for path in (folder / "blue").iterdir())
    (folder / "blue" / names[-1]).write_bytes(b"no picture")
    data, _, _ = images_of(folder, tmp_path)
    blue = data.train.stack(torch.nonzero(data.train.labels == 0).flatten().tolist())
    assert (blue[:, 2].float().mean(dim=(1, 2)) > 200).all()


def test_oversized_image_counts_as_corrupt(folder, tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(folder / "blue" / "3.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    _, warnings, _ = images_of(folder, tmp_path)
    assert len(warnings) == 1
    assert "3.png" in warnings[0]


def test_every_class_keeps_an_image_to_train_on(folder):
    for name in (str(number) for number in range(40)):
        (folder / name).mkdir()
        Image.new("RGB", (4, 4)).save(folder / name / "only.png")
    layout = read_layout(folder)
    assert set(layout.train.labels.tolist()) == set(range(42))
    assert len(layout.held_out)


def test_one_class_is_enough(folder):
    shutil.rmtree(folder / "red")
    layout = read_layout(folder)
    assert layout.class_names == ("blue",)
    assert layout.described.endswith("held out, of one class, so that none is learned.")


def test_too_many_corrupt_images_end_the_run(folder, tmp_path):
    for number in (3, 4):
        (folder / "blue" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"at most 1 unreadable image\(s\); got 2.*3\.png"):
        images_of(folder, tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        read_layout(tmp_path / "nowhere")


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match=r"0 sub-folder\(s\) and none with images"):
        read_layout(tmp_path)


@pytest.mark.parametrize("split", [".", "train"])
@pytest.mark.parametrize("has_val", [False, True])
def test_images_without_classes_are_of_one(folder, tmp_path, split, has_val):
    root = tmp_path / "flat"
    root.mkdir()
    for name, where in [("blue", split)] + [("red", "val")] * has_val:
        (root / where).mkdir(exist_ok=True)
        for path in (folder / name).iterdir():
            path.rename(root / where / path.name)
    layout = read_layout(root)
    assert (layout.class_names, layout.remark) == (("all",), "")
    assert set(layout.train.labels.tolist() + layout.held_out.labels.tolist()) == {0}
    assert len(layout.train) + len(layout.held_out) == 20 + 20 * has_val
    assert has_val == (len(layout.held_out) == 20)
    places = [layout.train.place(index) for index in range(len(layout.train))]
    assert [each.stat().st_size for each in places] == layout.train.sizes.tolist()


def test_a_folder_around_the_classes_is_no_class(folder, tmp_path):
    around = tmp_path / "around"
    around.mkdir()
    folder.rename(around / "images")
    with pytest.raises(DataError, match=r"got images alone.* Give .*around/images, or put"):
        read_layout(around)
    (around / "images" / "red").rename(tmp_path / "red")
    assert read_layout(around).class_names == ("images",)  # as in images/000/1.png


def test_class_of_val_alone_is_refused(folder):
    (folder / "train").mkdir()
    for name in ("blue", "red"):
        (folder / name).rename(folder / "train" / name)
    (folder / "val" / "green").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "val" / "green" / "x.png")
    with pytest.raises(DataError, match="got also green"):
        read_layout(folder)
