import itertools
import math

import pytest
import torch
from einops import rearrange

from mimflow_train.frozen.hog import HogTeacher

CPU = torch.device("cpu")


def histograms(image, grid):
    """Return (patch, colour, orientation, cell row, cell column) of one image."""
    features = HogTeacher(grid, CPU)(image)[0]
    return rearrange(features, "n (c o y x) -> n c o y x", c=3, o=9, y=2)


def test_constant_image_gives_zeros():
    assert torch.equal(HogTeacher((2, 3), CPU)(torch.ones(2, 3, 32, 48)), torch.zeros(2, 6, 108))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dim", "orientation"), [(-1, 4), (-2, 0)], ids=["vertical", "horizontal"])
def test_edges_vote_for_their_orientation_whatever_the_polarity(sign, dim, orientation):
    image = torch.zeros(1, 3, 32, 32)
    image.narrow(dim, 16, 16).fill_(sign)
    votes = histograms(image, (2, 2)).sum((0, 1, 3, 4))
    assert votes.nonzero().flatten().tolist() == [orientation]


def test_each_cell_has_unit_length():
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    norms = histograms(image, (2, 3)).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_patches_colours_and_cells_are_where_they_should_be():
    image = torch.zeros(1, 3, 32, 48)
    image[0, 1, 10:14, 42:46] = 1  # green, patch 2, first row of cells, second column of cells
    patch, colour, _, _, column = histograms(image, (2, 3)).nonzero().unbind(1)
    assert (patch.unique().tolist(), colour.unique().tolist()) == ([2], [1])
    assert column.unique().tolist() == [1]


def by_hand(image):
    """Histograms of one patch, pixel by pixel: mirrored border, Gaussian weight of std 8."""
    inside = [1, *range(16), 14]
    cells = torch.zeros(3, 9, 2, 2)
    for c, y, x in itertools.product(range(3), range(16), range(16)):
        rows, columns = inside[y : y + 3], inside[x : x + 3]
        near = [[image[c, row, column].item() for column in columns] for row in rows]
        dx = sum(k * (row[0] - row[2]) for k, row in zip((1, 2, 1), near, strict=True))
        dy = sum(k * (near[0][i] - near[2][i]) for i, k in enumerate((1, 2, 1)))
        weight = math.exp(-((y - 7.5) ** 2 + (x - 7.5) ** 2) / 128)
        orientation = math.floor(math.atan2(dx, dy) / math.pi * 9) % 9
        cells[c, orientation, y // 8, x // 8] += weight * math.hypot(dx, dy)
    return cells / cells.norm(dim=1, keepdim=True)


def test_histograms_are_those_counted_by_hand():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(histograms(image, (1, 1))[0], by_hand(image[0]))


def test_the_image_is_resized_to_the_grid():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert HogTeacher((3, 2), CPU)(image).shape == (1, 6, 108)


def test_distance_is_the_mean_square():
    features = torch.full((1, 2, 108), 2.0)
    assert HogTeacher.distance(features, torch.zeros(1, 2, 108)).tolist() == [[4.0, 4.0]]
