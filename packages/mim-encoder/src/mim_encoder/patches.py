"""Between images and rows of patches, and masks drawn as pixels."""

from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from mim_encoder.checks import require_count, require_pair
from mim_encoder.inputs import ONE_BATCH, require_mask, require_tensor


def patchify(image: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b n p"]:
    """Cut an image into square patches in raster order; inside a patch the channel runs fastest.

    Args:
        image: Any images; both sides a multiple of ``patch_size``.
        patch_size: Side of a patch, in pixels.

    Returns:
        ``n = (h / patch_size) * (w / patch_size)`` rows of ``p = patch_size**2 * c`` values.

    Raises:
        TypeError: If the image is no tensor, or ``patch_size`` no whole number.
        ValueError: If the patches do not tile the image.

    Example:
        >>> import torch
        >>> patchify(torch.zeros(1, 3, 8, 12), patch_size=4).shape
        torch.Size([1, 6, 48])
    """
    _require_tiling(image, patch_size)
    return rearrange(image, "b c (y i) (x j) -> b (y x) (i j c)", i=patch_size, j=patch_size)


def unpatchify(
    patches: Float[Tensor, "b n p"], grid: tuple[int, int], patch_size: int
) -> Float[Tensor, "b c h w"]:
    """Put patches back together; the inverse of `patchify`.

    Args:
        patches: One row per patch, in raster order.
        grid: Rows and columns of patches.
        patch_size: Side of a patch, in pixels.

    Raises:
        TypeError: If the patches are no tensor, or ``grid`` or ``patch_size`` not of whole numbers.
        ValueError: If the patches are not of this grid and size.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 3, 8, 12)
        >>> torch.equal(unpatchify(patchify(image, 4), grid=(2, 3), patch_size=4), image)
        True
    """
    require_tensor(patches=patches)
    rows, columns = _checked(grid, patch_size)
    num_patches, area = rows * columns, patch_size**2
    if patches.ndim != 3 or patches.shape[1] != num_patches or patches.shape[2] % area:
        raise ValueError(
            f"Expected patches of shape (b, {num_patches}, {area} * channels); "
            f"got {tuple(patches.shape)}. Give the grid and patch_size that they were cut with."
        )
    return rearrange(
        patches,
        "b (y x) (i j c) -> b c (y i) (x j)",
        y=rows,
        x=columns,
        i=patch_size,
        j=patch_size,
    )


def mask_to_pixels(
    masked: Bool[Tensor, "b n"], grid: tuple[int, int], patch_size: int
) -> Bool[Tensor, "b 1 h w"]:
    """Draw a mask over patches as a mask over pixels.

    Args:
        masked: True where a patch is hidden.
        grid: Rows and columns of patches.
        patch_size: Side of a patch, in pixels.

    Raises:
        TypeError: If the mask is no tensor, or ``grid`` or ``patch_size`` not of whole numbers.
        ValueError: If the mask is not boolean or not of the grid.

    Example:
        >>> import torch
        >>> mask_to_pixels(torch.tensor([[True, False]]), grid=(1, 2), patch_size=2)[0, 0].int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0]], dtype=torch.int32)
    """
    rows, columns = _checked(grid, patch_size)
    require_mask(masked, None, rows * columns)
    return repeat(
        masked,
        "b (y x) -> b 1 (y i) (x j)",
        y=rows,
        x=columns,
        i=patch_size,
        j=patch_size,
    )


def mask_image(
    image: Float[Tensor, "b c h w"],
    masked: Bool[Tensor, "b n"],
    patch_size: int,
    fill: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """Paint the hidden patches in one colour, to show what the encoder sees.

    Args:
        image: Images in [-1, 1].
        masked: True where a patch is hidden.
        patch_size: Side of a patch, in pixels.
        fill: Value of hidden pixels; 0 is mid-grey.

    Raises:
        TypeError: If image or mask is no tensor, or ``patch_size`` no whole number.
        ValueError: If the patches do not tile the image, or the mask is not boolean or not one for
            every image.

    Example:
        >>> import torch
        >>> mask_image(torch.ones(1, 1, 1, 2), torch.tensor([[True, False]]), patch_size=1)
        tensor([[[[0., 1.]]]])
    """
    _require_tiling(image, patch_size)
    height, width = image.shape[-2:]
    grid = (height // patch_size, width // patch_size)
    require_mask(masked, len(image), grid[0] * grid[1])
    return image.masked_fill(mask_to_pixels(masked, grid, patch_size), fill)


def _checked(grid: tuple[int, int], patch_size: int) -> tuple[int, int]:
    require_pair("(16, 16)", grid=grid)
    require_count(patch_size=patch_size)
    return grid


def _require_tiling(image: Float[Tensor, "b c h w"], patch_size: int) -> None:
    require_tensor(image=image)
    require_count(patch_size=patch_size)
    if image.ndim != 4:
        raise ValueError(
            f"Expected images of shape (b, c, h, w); got {tuple(image.shape)}. {ONE_BATCH}"
        )
    height, width = image.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"Expected image sides divisible by patch_size={patch_size}; got {height}x{width}. "
            "Resize or crop the image first."
        )
