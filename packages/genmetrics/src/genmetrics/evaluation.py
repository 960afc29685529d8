"""Judge samples against real images, in one pass over each."""

from collections.abc import Callable, Iterator

from genmetrics.errors import BadInput
from genmetrics.extractors import Extractor
from genmetrics.features import extract_features
from genmetrics.floor import EqualCountDistance, frechet_at_equal_count, frechet_floor
from genmetrics.frechet import FrechetResult, frechet_distance_from_features
from genmetrics.inception import SHA256_PREFIX
from genmetrics.report import ImageSet, Remark, Report
from genmetrics.sources import ImageSource


def evaluate(
    samples: ImageSource,
    reference: ImageSource,
    *,
    extractor: Extractor,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Score samples by their Frechet distance to real images, beside the floor of real images.

    The floor is the distance between two disjoint random halves of the reference, with as many
    images as there are samples if it has twice as many; the samples' distance at that count is
    given too, since only these two numbers can be compared.

    Args:
        samples: The images to judge, at least 2.
        reference: Real images, at least 2.
        extractor: The feature network.
        batch_size: Images per forward pass.
        seed: Seed of the random subsets.
        progress: Called after each batch with the number of images in it.

    Raises:
        BadInput: If a set is too small or an image cannot be decoded.
        NumericalFailure: If features are not finite.
    """
    for source in (samples, reference):
        if len(source) < 2:
            raise BadInput(
                f"Expected at least 2 images in {source.path}; got {len(source)}. Add images."
            )
    x, y = (extract_features(s, extractor, batch_size, progress) for s in (samples, reference))
    distance = frechet_distance_from_features(x, y)
    floor = at_equal_count = None
    if len(y) >= 4:
        floor = frechet_floor(y, len(x), seed=seed)
        at_equal_count = frechet_at_equal_count(x, y, len(x), seed=seed)
    remarks = [
        *(Remark("INPUT", sentence) for s in (samples, reference) for sentence in s.remarks()),
        *_remarks(distance, floor, extractor),
    ]
    return Report(
        name=extractor.frechet_name,
        distance=distance,
        at_equal_count=at_equal_count,
        floor=floor,
        extractor=extractor,
        samples=ImageSet.of(samples),
        reference=ImageSet.of(reference),
        remarks=tuple(remarks),
    )


def _remarks(
    distance: FrechetResult, floor: EqualCountDistance | None, extractor: Extractor
) -> Iterator[Remark]:
    if distance.rank_deficient:
        yield Remark(
            "RANK_DEFICIENT",
            f"{min(distance.n_a, distance.n_b)} images are not more than the {extractor.dim} "
            "dimensions: the score is far above its value for many images. Compare it only at the "
            "same N, and with the floor.",
        )
    if floor is None:
        yield Remark(
            "NO_FLOOR", f"A floor needs at least 4 reference images; there are {distance.n_b}."
        )
    elif floor.n < distance.n_a:
        yield Remark(
            "SMALL_REFERENCE",
            f"The floor is at N = {floor.n}, half of the reference, and not at the samples' "
            f"{distance.n_a}. Hold it against the score at equal N.",
        )
    if extractor.name == "inception" and not extractor.weights_sha256.startswith(SHA256_PREFIX):
        yield Remark(
            "OTHER_WEIGHTS",
            f"The Inception weights have sha256 {extractor.weights_sha256[:8]}..., not "
            f"{SHA256_PREFIX}...: this is not the FID of the literature.",
        )
