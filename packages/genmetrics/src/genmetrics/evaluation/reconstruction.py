"""How well images come back from an autoencoder: PSNR, SSIM, LPIPS and rFID over pairs.

One pass over the pairs, a batch in memory at a time; rFID reads each set once more, unless its
features are in a cache.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from genmetrics.checks import Images
from genmetrics.errors import BadInput, UsageError, one_of
from genmetrics.evaluation.reconstruction_report import PairScore, ReconstructionResult
from genmetrics.evaluation.report import ImageSet, Remark
from genmetrics.features.extraction import extract
from genmetrics.images.pairing import Pairing, Pairs, pair_images, usual_pairing
from genmetrics.images.sources import PictureSet, as_images
from genmetrics.metrics.frechet import FrechetResult, frechet_distance_from_features
from genmetrics.metrics.pixel_metrics import (
    PSNR_CAP_DB,
    SSIMWindow,
    mean_squared_error,
    psnr_from_mse,
    ssim,
    ssim_window_id,
)
from genmetrics.networks.extractors import Extractor, as_extractor
from genmetrics.networks.perceptual import PerceptualDistance, perceptual_distance

ReconstructionMetric = Literal["psnr", "ssim", "lpips", "rfid"]

METRICS: tuple[ReconstructionMetric, ...] = ("psnr", "ssim", "lpips", "rfid")
_PEAK = 255.0  # of bytes
_READERS = 4


def reconstruction_metrics(  # noqa: PLR0913  # each is a convention that the result names
    real: Images,
    recon: Images,
    metrics: str | Sequence[ReconstructionMetric] = METRICS,
    pairing: Pairing | None = None,
    *,
    ssim_window: SSIMWindow = "gaussian",
    perceptual: PerceptualDistance | None = None,
    extractor: Extractor | str | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> ReconstructionResult:
    """Compare images with their reconstructions, both of bytes, pair by pair.

    Args:
        real: The originals, their path, or bytes: a tensor ``(n, 3, h, w)`` or an array
            ``(n, h, w, 3)``.
        recon: Their reconstructions, of the same sizes.
        metrics: What to compute, any of ``psnr, ssim, lpips, rfid``, in a list or between commas.
        pairing: ``name`` for files of one relative path without extension, ``index`` for order;
            None for ``name``, or ``index`` where images have no names.
        ssim_window: The window of SSIM, see :func:`genmetrics.metrics.pixel_metrics.ssim`.
        perceptual: The LPIPS network; None builds the default one if ``lpips`` is asked for.
        extractor: The network of rFID, or its name; None builds Inception if ``rfid`` is asked for.
        batch_size: Pairs in memory at a time.
        cache: A folder in which features for rFID are kept, the same as that of ``extract``.
        progress: Called after each batch with the number of images in it.

    Raises:
        UsageError: If there is no such metric, pairing or window.
        PairingError: If an image has no partner.
        BadInput: If the sizes of a pair differ, or an image cannot be decoded or is too small.
        WeightsUnavailable: If a network is asked for whose weights are not here.
        NumericalFailure: If features are not finite.

    Example:
        >>> from genmetrics import open_images
        >>> import tempfile, PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PIL.Image.new("RGB", (16, 16)).save(f"{folder}/black.png")
        ...     images = open_images(folder)
        ...     result = reconstruction_metrics(images, images, ("psnr", "ssim"))
        >>> result.psnr.value, result.ssim.value
        (100.0, 1.0)
    """
    chosen = _known(metrics)
    one_of(get_args(SSIMWindow), ssim_window=ssim_window)
    real, recon = as_images(real), as_images(recon)
    pairing = pairing or usual_pairing(real, recon)
    pairs = pair_images(real, recon, pairing)
    if "rfid" in chosen and len(pairs.names) < 2:
        raise BadInput("Expected at least 2 pairs for rfid; got 1. Leave rfid out.")
    if "lpips" in chosen and perceptual is None:
        perceptual = perceptual_distance()
    network = as_extractor(extractor or "inception") if "rfid" in chosen else None
    scorers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if "psnr" in chosen:
        scorers["mse"] = mean_squared_error
    if "ssim" in chosen:
        scorers["ssim"] = lambda x, y: ssim(x, y, window=ssim_window)
    if "lpips" in chosen and perceptual is not None:
        scorers["lpips"] = perceptual
    per_pair = _score_pairs(pairs, scorers, batch_size, progress) if scorers else {}
    mse = per_pair.get("mse")
    distance = None
    if network is not None:
        features = [
            extract(source, network, batch_size=batch_size, cache=cache, progress=progress)
            for source in (pairs.recon, pairs.real)
        ]
        distance = frechet_distance_from_features(
            *(outputs[network.main_output] for outputs in features)
        )
    return ReconstructionResult(
        real=ImageSet.of(pairs.real),
        recon=ImageSet.of(pairs.recon),
        pairing=pairing,
        names=pairs.names,
        class_of=_class_of(pairs),
        psnr=None if mse is None else PairScore(psnr_from_mse(mse, _PEAK), _psnr_conventions()),
        psnr_of_mean_mse=None if mse is None else psnr_from_mse(mse.mean(), _PEAK).item(),
        ssim=_score(per_pair, "ssim", {"window": ssim_window_id(ssim_window), "data_range": _PEAK}),
        lpips=_score(per_pair, "lpips", _lpips_conventions(perceptual)),
        rfid=distance,
        extractor=network,
        remarks=tuple(_remarks(pairs, per_pair, perceptual, distance)),
    )


def _known(metrics: str | Sequence[str]) -> tuple[str, ...]:
    names = tuple(metrics.split(",")) if isinstance(metrics, str) else tuple(metrics)
    if not names or (unknown := set(names) - set(METRICS)):
        raise UsageError(
            f"Expected metrics among {', '.join(METRICS)}; "
            f"got {', '.join(sorted(unknown)) if names else 'none'}."
        )
    return names


def _class_of(pairs: Pairs) -> list[str] | None:
    """Return the class of each pair: its folder, or its number where images have no names."""
    if pairs.real.labels is None:
        return None
    if isinstance(pairs.real, PictureSet):
        return [PurePosixPath(name).parent.as_posix() for name in pairs.real.names]
    return [str(label) for label in pairs.real.labels.tolist()]


def _psnr_conventions() -> dict[str, Any]:
    return {"averaging": "mean of per-pair PSNR", "peak": _PEAK, "cap_db": PSNR_CAP_DB}


def _lpips_conventions(perceptual: PerceptualDistance | None) -> dict[str, Any]:
    if perceptual is None:
        return {}
    return {
        "net": perceptual.net,
        "version": perceptual.version,
        "weights_sha256": perceptual.weights_sha256,
        "input": "x / 127.5 - 1",
    }


def _score(per_pair: dict[str, Tensor], name: str, conventions: dict[str, Any]) -> PairScore | None:
    return PairScore(per_pair[name], conventions) if name in per_pair else None


def _remarks(
    pairs: Pairs,
    per_pair: dict[str, Tensor],
    perceptual: PerceptualDistance | None,
    distance: FrechetResult | None,
) -> Iterator[Remark]:
    for source in (pairs.real, pairs.recon):
        yield from (Remark("INPUT", sentence) for sentence in source.remarks())
    if "mse" in per_pair and (equal := int((per_pair["mse"] == 0).sum())):
        yield Remark(
            "EQUAL_PAIRS",
            f"{equal} of {len(pairs.names)} pairs are equal bit for bit and count as "
            f"{PSNR_CAP_DB:.0f} dB. Check that these are reconstructions.",
        )
    if "lpips" in per_pair and perceptual is not None and not perceptual.standard_weights:
        yield Remark(
            "OTHER_WEIGHTS",
            f"The LPIPS backbone has sha256 {perceptual.weights_sha256[:8]}..., not torchvision's: "
            "this is not the LPIPS of the literature.",
        )
    if distance is not None and distance.rank_deficient and not _all_equal(per_pair):
        yield Remark(
            "RANK_DEFICIENT",
            f"{distance.n_a} pairs are not more than the dimensions of the features: the distance "
            "is far above its value for many images. Compare it only at the same N.",
        )


def _all_equal(per_pair: dict[str, Tensor]) -> bool:
    return "mse" in per_pair and not per_pair["mse"].any()


def _score_pairs(
    pairs: Pairs,
    scorers: dict[str, Callable[[Tensor, Tensor], Tensor]],
    batch_size: int,
    progress: Callable[[int], object] | None,
) -> dict[str, Tensor]:
    scores = {name: torch.empty(len(pairs.names), dtype=torch.float64) for name in scorers}
    for start, batch in _batches(pairs, batch_size):
        rows_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, (image, _) in enumerate(batch):
            rows_of[image.shape].append(row)
        for rows in rows_of.values():
            x, y = (_stack([batch[row][side] for row in rows]) for side in (0, 1))
            for name, scorer in scorers.items():
                scores[name][torch.tensor(rows) + start] = scorer(x, y)
        if progress is not None:
            progress(2 * len(batch))
    return scores


def _batches(
    pairs: Pairs, batch_size: int
) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
    """Yield where each batch begins and its pairs, the next batch being decoded meanwhile."""

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        image, copy = pairs.real.read(index), pairs.recon.read(index)
        if image.shape != copy.shape:
            raise BadInput(
                f"Expected a reconstruction of the size of its image; got "
                f"{image.shape[1]}x{image.shape[0]} and {copy.shape[1]}x{copy.shape[0]} for "
                f"{pairs.names[index]}. Resize one of them."
            )
        return image, copy

    with ThreadPoolExecutor(_READERS) as readers:

        def submit(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return readers.map(read, range(start, min(start + batch_size, len(pairs.names))))

        ahead = submit(0)
        for start in range(0, len(pairs.names), batch_size):
            batch, ahead = list(ahead), submit(start + batch_size)
            yield start, batch


def _stack(images: list[np.ndarray]) -> UInt8[Tensor, "b 3 h w"]:
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)
