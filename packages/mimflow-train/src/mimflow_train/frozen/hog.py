"""Histograms of oriented gradients as features: no weights (MaskFeat, arXiv 2112.09133)."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from mimflow_train.frozen.teacher import PATCH, at_grid, square_distance

__all__ = ["HogTeacher"]

_BINS = 9
_CELL = 8
_WINDOW_STD = 8.0
_SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


class HogTeacher:
    """Nine orientations in 2 x 2 cells of 8 px, for each colour: 108 numbers per patch of 16 px.

    The image is resized so that its patches are 16 px. In each cell the histogram has unit length.
    Order of a patch's numbers: colour, orientation, row of the cell, column of the cell.

    Args:
        grid: Patches per column and row.
        device: Where it is computed.
    """

    distance = staticmethod(square_distance)

    def __init__(self, grid: tuple[int, int], device: torch.device) -> None:
        self.grid = grid
        self.device = device
        sobel = torch.tensor(_SOBEL, device=device)
        self.across = repeat(sobel, "h w -> 3 1 h w")
        self.down = repeat(sobel, "h w -> 3 1 w h")
        window = torch.exp(-((torch.arange(PATCH) - (PATCH - 1) / 2) ** 2) / (2 * _WINDOW_STD**2))
        tile = torch.outer(window, window).to(device)
        self.window = repeat(tile / tile.sum(), "h w -> (gh h) (gw w)", gh=grid[0], gw=grid[1])

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n f"]:
        """Return the histograms of each patch, in raster order."""
        with torch.autocast(self.device.type, enabled=False):
            resized = at_grid(image, self.grid, self.device).float()
            padded = F.pad(resized, (1, 1, 1, 1), mode="reflect")
            dx, dy = (F.conv2d(padded, each, groups=3) for each in (self.across, self.down))
            votes = self.window * torch.stack([dx, dy]).norm(dim=0)
            # A signed angle modulo 9 bins of 20 degrees: an edge and its negative are the same.
            bins = (torch.atan2(dx, dy) / math.pi * _BINS).floor().long() % _BINS
            cells = F.normalize(_histograms(votes, bins), dim=2)
        return rearrange(cells, "b c o (h y) (w x) -> b (h w) (c o y x)", y=2, x=2)


def _histograms(votes: Float[Tensor, "b c h w"], bins: Tensor) -> Float[Tensor, "b c o y x"]:
    """Sum the votes for each orientation over cells."""
    split = votes.new_zeros(*votes.shape[:2], _BINS, *votes.shape[2:])
    split.scatter_(2, rearrange(bins, "b c h w -> b c 1 h w"), votes[:, :, None])
    cells = {"ch": _CELL, "cw": _CELL}
    return reduce(split, "b c o (y ch) (x cw) -> b c o y x", "sum", **cells)
