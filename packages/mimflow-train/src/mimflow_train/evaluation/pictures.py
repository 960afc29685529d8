"""Images as people and as other tools want them: grids as PNG, arrays as ADM writes them."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genmetrics import write_npz
from mimflow_train.storage.files import written_whole

__all__ = ["channels_last", "save_grid", "save_npz"]

_GAP = 2
_SMALL = 128  # sides below are shown twice as large
_LABEL_WIDTH = 96  # at least


def save_npz(
    batches: Iterable[UInt8[Tensor, "b 3 h w"]], label: Int64[Tensor, " n"], path: Path
) -> Path:
    """Write images in ADM's format: ``arr_0``, bytes with channels last, and ``arr_1``, classes.

    The file appears when it is whole; no more than a batch is in memory.

    Args:
        batches: RGB bytes, ``n`` in all.
        label: Class of each.
        path: A .npz file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = (image for batch in batches for image in channels_last(batch))
    write_npz(images, path, label.cpu().numpy(), count=len(label))
    return path


def channels_last(images: UInt8[Tensor, "b 3 h w"]) -> np.ndarray:
    """Return images as arrays that PIL takes one by one, uint8 ``(b, h, w, 3)``."""
    array: np.ndarray = rearrange(images, "b c h w -> b h w c").cpu().numpy()
    return array


def save_grid(rows: Sequence[UInt8[Tensor, "_ 3 h w"]], names: Sequence[str], path: Path) -> None:
    """Write one PNG with a named row of images for each batch, small images twice as large.

    The file appears when it is whole.

    Args:
        rows: Batches of equal image size.
        names: What to write to the left of each row.
        path: The file; its folder is made.
    """
    strips = [rearrange(row, "b c h w -> h b w c") for row in rows]
    height, _, width, _ = strips[0].shape
    columns = max(strip.shape[1] for strip in strips)
    zoom = 2 if height < _SMALL else 1
    cell_height, cell_width = height * zoom + _GAP, width * zoom + _GAP
    font = ImageFont.load_default(13)
    label_width = max(_LABEL_WIDTH, *(8 + math.ceil(font.getlength(name)) for name in names))
    size = (label_width + columns * cell_width, len(rows) * cell_height)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for number, (strip, name) in enumerate(zip(strips, names, strict=True)):
        top = number * cell_height
        pen.text((4, top + cell_height // 2 - 8), name, fill="black", font=font)
        for column in range(strip.shape[1]):
            tile = Image.fromarray(strip[:, column].cpu().numpy())
            tile = tile.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            canvas.paste(tile, (label_width + column * cell_width, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as draft:
        canvas.save(draft, format="PNG")
