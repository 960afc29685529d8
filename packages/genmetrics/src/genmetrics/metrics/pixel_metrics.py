"""PSNR and SSIM of image pairs, one number per pair, in float64.

Both are named after conventions as much as after formulas: the range of the values, the window of
SSIM, and whether decibels or squared errors are averaged all move the result. None is guessed here.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from genmetrics.checks import require_pairs
from genmetrics.errors import BadInput, UsageError, one_of

SSIMWindow = Literal["gaussian", "uniform"]

PSNR_CAP_DB = 100.0
GAUSSIAN_SIGMA = 1.5
GAUSSIAN_RADIUS = 5  # 3.5 sigma, rounded: 11 taps
UNIFORM_SIDE = 7
K1, K2 = 0.01, 0.03
_VALUES_AT_ONCE = 2**22  # of the originals, in SSIM


def mean_squared_error(
    real: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"],
    recon: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"],
) -> Float64[Tensor, " b"]:
    """Return the mean squared difference of each pair, in the square of the values' unit.

    Args:
        real: Original images.
        recon: Their reconstructions, of the same dtype.

    Raises:
        BadInput: If the shapes differ, or one set is of bytes and the other is not.

    Example:
        >>> mean_squared_error(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)).item()
        0.25
    """
    _require_one_kind(real, recon)
    return (real.double() - recon.double()).square().mean(dim=(1, 2, 3))


def psnr_from_mse(mse: Float64[Tensor, "*b"], data_range: float) -> Float64[Tensor, "*b"]:
    """Return ``10 log10(data_range^2 / mse)`` in dB, at most 100.

    The cap is what flooring the error at 1e-10 of the squared range amounts to; equal images would
    otherwise have infinitely many decibels, and so would every mean over images that include them.

    Example:
        >>> psnr_from_mse(torch.tensor([1e-3, 0.0], dtype=torch.float64), 1.0).tolist()
        [30.0, 100.0]
    """
    floor = 10 ** (-PSNR_CAP_DB / 10)
    return -10 * torch.log10((mse / data_range**2).clamp(min=floor))


def psnr(
    real: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"],
    recon: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"],
    *,
    data_range: float | None = None,
) -> Float64[Tensor, " b"]:
    """Return the peak signal-to-noise ratio of each pair in dB, at most 100.

    Args:
        real: Original images.
        recon: Their reconstructions.
        data_range: Largest minus smallest possible value: 1 for [0, 1], 2 for [-1, 1]. None is 255
            for bytes; floats must say.

    Raises:
        BadInput: If the shapes differ, or one set is of bytes and the other is not.
        UsageError: If floats come without a range, or the range is not above 0.

    Example:
        >>> black = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
        >>> round(psnr(black, black + 10).item(), 4)  # 20 log10(255 / 10)
        28.1308
    """
    _require_one_kind(real, recon)
    data_range = _known_range(real, data_range)
    return psnr_from_mse(mean_squared_error(real, recon), data_range)


def ssim(
    real: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"],
    recon: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"],
    *,
    window: SSIMWindow = "gaussian",
    data_range: float | None = None,
) -> Float64[Tensor, " b"]:
    """Return the structural similarity of each pair, mean over channels and window positions.

    ``gaussian`` is the window of the paper by Wang et al.: sigma 1.5, 11 x 11 taps, variances as
    they are. ``uniform`` is scikit-image's default: 7 x 7 with equal weights and the unbiased
    (n - 1) variances. Windows that stick out of the image are left out.

    Args:
        real: Original images, no smaller than the window.
        recon: Their reconstructions.
        window: The weights of the local means.
        data_range: As in :func:`psnr`. A range that is too large flatters.

    Raises:
        BadInput: If the images are smaller than the window, the shapes differ, or one set only is
            of bytes.
        UsageError: If there is no such window, floats come without a range, or the range is not
            above 0.

    Example:
        >>> image = torch.rand(2, 3, 16, 13, generator=torch.Generator().manual_seed(0))
        >>> ssim(image, image, data_range=1.0).tolist()
        [1.0, 1.0]
    """
    one_of(get_args(SSIMWindow), window=window)
    _require_one_kind(real, recon)
    data_range = _known_range(real, data_range)
    taps = _taps(window).to(real.device)
    b, c, height, width = real.shape
    if min(height, width) < len(taps):
        raise BadInput(
            f"Expected images of at least {len(taps)} pixels a side for SSIM's {window} window; "
            f"got {width}x{height}. Leave ssim out."
        )
    # Five planes of float64 of 64 whole pairs of 1024 px would take 8 GB, and 27 with the filters.
    at_once = max(1, _VALUES_AT_ONCE // (c * height * width))
    parts = []
    for start in range(0, max(b, 1), at_once):
        x, y = (images[start : start + at_once].double() for images in (real, recon))
        parts.append(_similarity(x, y, taps, window, data_range))
    return torch.cat(parts)


def _similarity(
    x: Float64[Tensor, "b c h w"],
    y: Float64[Tensor, "b c h w"],
    taps: Float64[Tensor, " side"],
    window: SSIMWindow,
    data_range: float,
) -> Float64[Tensor, " b"]:
    b, c, height, width = x.shape
    planes = torch.stack([x, y, x * x, y * y, x * y]).reshape(-1, 1, height, width)
    rows = F.conv2d(planes, taps.reshape(1, 1, -1, 1))
    means = F.conv2d(rows, taps.reshape(1, 1, 1, -1)).unflatten(0, (5, b, c)).squeeze(3)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = means
    unbiased = len(taps) ** 2 / (len(taps) ** 2 - 1) if window == "uniform" else 1.0
    variances = unbiased * (mean_xx - mean_x**2 + mean_yy - mean_y**2)
    covariance = unbiased * (mean_xy - mean_x * mean_y)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity: Tensor = luminance * (2 * covariance + c2) / (variances + c2)
    return similarity.mean(dim=(1, 2, 3))


def ssim_window_id(window: SSIMWindow) -> str:
    """Return the window and its variances, in words.

    Example:
        >>> ssim_window_id("gaussian")
        'gaussian 11x11, sigma 1.5, population variances'
    """
    if window == "gaussian":
        side = 2 * GAUSSIAN_RADIUS + 1
        return f"gaussian {side}x{side}, sigma {GAUSSIAN_SIGMA}, population variances"
    return f"uniform {UNIFORM_SIDE}x{UNIFORM_SIDE}, sample variances"


def _taps(window: SSIMWindow) -> Float64[Tensor, " side"]:
    if window == "gaussian":
        offsets = torch.arange(-GAUSSIAN_RADIUS, GAUSSIAN_RADIUS + 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (offsets / GAUSSIAN_SIGMA) ** 2)
        return weights / weights.sum()
    return torch.full((UNIFORM_SIDE,), 1 / UNIFORM_SIDE, dtype=torch.float64)


def _known_range(images: Tensor, data_range: float | None) -> float:
    if data_range is None and images.dtype == torch.uint8:
        return 255.0
    if data_range is None or not (math.isfinite(data_range) and data_range > 0):
        raise UsageError(
            f"Expected the data_range of {images.dtype} images, above 0; got {data_range}. "
            "Pass 1 for values in [0, 1], 2 for values in [-1, 1]."
        )
    return float(data_range)


def _require_one_kind(real: Tensor, recon: Tensor) -> None:
    require_pairs(real, recon)
    if (real.dtype == torch.uint8) != (recon.dtype == torch.uint8):
        raise BadInput(
            f"Expected two sets of bytes or two of floats; got {real.dtype} and {recon.dtype}. "
            "Bring both to one range."
        )
