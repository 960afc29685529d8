"""Each metric of ``genmetrics eval`` as a function of features that were extracted once."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from genmetrics.evaluation.protocols import Protocol
from genmetrics.evaluation.report import Score
from genmetrics.features.stats import GaussianStats, StatsAccumulator
from genmetrics.metrics.class_scores import inception_score
from genmetrics.metrics.frechet import (
    FrechetResult,
    frechet_distance,
    frechet_distance_from_features,
)
from genmetrics.metrics.frechet_error import frechet_standard_error
from genmetrics.metrics.frechet_floor import frechet_at_equal_count, frechet_floor
from genmetrics.metrics.frechet_infinity import fd_infinity
from genmetrics.metrics.kernel_distances import cmmd, kid
from genmetrics.metrics.neighbours import precision_recall
from genmetrics.networks.extractors import Extractor

__all__ = ["SCORERS", "Sets"]


@dataclass(frozen=True)
class Sets:
    """What there is to score.

    Attributes:
        samples: Features of the samples, by output of the extractor.
        reference: Features of the real images; empty if only statistics are known.
        statistics: Statistics of the real images that a file holds; they go before the features.
        extractor: The feature network.
        protocol: The constants.
        seed: Seed of random subsets.
    """

    samples: Mapping[str, Tensor]
    reference: Mapping[str, Tensor]
    statistics: Mapping[str, GaussianStats]
    extractor: Extractor
    protocol: Protocol
    seed: int

    @property
    def main(self) -> tuple[Tensor, Tensor]:
        """Main features of samples and real images."""
        output = self.extractor.main_output
        return self.samples[output], self.reference[output]

    def named(self, metric: str) -> str:
        """Return the name of a score: Inception's keep the plain names of the literature."""
        plain = self.extractor.name == "inception"
        return metric if plain else f"{metric}_{self.extractor.name}"

    def reference_stats(self, output: str) -> GaussianStats:
        """Return the real images' statistics of one output."""
        if output in self.statistics:
            return self.statistics[output]
        features = self.reference[output]
        return StatsAccumulator(features.shape[1]).update(features).finalize()


def _fid(sets: Sets) -> dict[str, Score]:
    output = sets.extractor.main_output
    return {sets.extractor.frechet_name: _frechet(sets, output)}


def _sfid(sets: Sets) -> dict[str, Score]:
    return {sets.named("sfid"): _frechet(sets, "spatial")}


def _frechet(sets: Sets, output: str) -> Score:
    x = sets.samples[output]
    if output in sets.statistics:
        own = StatsAccumulator(x.shape[1]).update(x).finalize()
        distance = frechet_distance(own, sets.statistics[output])
        return _frechet_score(sets, x, distance, sets.statistics[output])
    y = sets.reference[output]
    distance = frechet_distance_from_features(x, y)
    score = _frechet_score(sets, x, distance, y)
    if len(y) < 4:
        return score
    floor = frechet_floor(y, len(x), seed=sets.seed)
    at_equal_count = frechet_at_equal_count(x, y, len(x), seed=sets.seed)
    rows = tuple(
        (f"  {label}", f"{each.value:.4f} (sd {each.std:.4f})", f"{sides}, {each.n} each")
        for label, each, sides in (
            ("at equal N", at_equal_count, "samples against reference"),
            ("floor", floor, "reference against reference"),
        )
    )
    details = {
        **score.details,
        "at_equal_count": asdict(at_equal_count),
        "floor": asdict(floor),
    }
    return Score(score.value, score.n_samples, score.n_ref, score.se, details, rows)


def _frechet_score(
    sets: Sets, x: Tensor, distance: FrechetResult, reference: GaussianStats | Tensor
) -> Score:
    se = frechet_standard_error(x, reference)
    details = {
        "mean_term": distance.mean_term,
        "covariance_term": distance.covariance_term,
        "rank_deficient": distance.rank_deficient,
        "at_equal_count": None,
        "floor": None,
    }
    return Score(distance.value, len(x), distance.n_b, se, details)


def _inception_score(sets: Sets) -> dict[str, Score]:
    logits = sets.extractor.logits(sets.samples[sets.extractor.main_output])
    result = inception_score(logits, chunk=sets.protocol.is_chunk, shuffle_seed=sets.seed)
    name = sets.extractor.inception_score_name
    return {name: Score(result.mean, len(logits), None, result.se, asdict(result))}


def _precision_recall(sets: Sets) -> dict[str, Score]:
    x, y = sets.main
    result = precision_recall(
        x, y, k=sets.protocol.neighbours, precision=sets.protocol.pr_precision
    )
    details = {"k": result.k, "mode": result.mode}
    rows = {
        "precision": (result.precision, result.precision_se),
        "recall": (result.recall, result.recall_se),
    }
    return {
        sets.named(name): Score(value, len(x), len(y), se, details)
        for name, (value, se) in rows.items()
    }


def _density_coverage(sets: Sets) -> dict[str, Score]:
    x, y = sets.main
    result = precision_recall(
        x,
        y,
        k=sets.protocol.neighbours,
        precision=sets.protocol.pr_precision,
        density_coverage=True,
    )
    rows = {
        "density": (result.density, result.density_se),
        "coverage": (result.coverage, result.coverage_se),
    }
    return {
        sets.named(name): Score(value, len(x), len(y), se, {"k": result.k})
        for name, (value, se) in rows.items()
        if value is not None
    }


def _kid(sets: Sets) -> dict[str, Score]:
    x, y = sets.main
    protocol = sets.protocol
    result = kid(
        x, y, subsets=protocol.kid_subsets, subset_size=protocol.kid_subset_size, seed=sets.seed
    )
    return {sets.named("kid"): Score(result.mean, len(x), len(y), result.se, asdict(result))}


def _cmmd(sets: Sets) -> dict[str, Score]:
    x, y = sets.main
    name = "cmmd" if sets.extractor.name == "clip" else sets.named("cmmd")
    result = cmmd(x, y, sigma=sets.protocol.cmmd_sigma)
    return {name: Score(result.value, len(x), len(y), result.se)}


def _fd_infinity(sets: Sets) -> dict[str, Score]:
    output = sets.extractor.main_output
    x = sets.samples[output]
    reference = sets.reference_stats(output)
    result = fd_infinity(x, reference, seed=sets.seed)
    name = f"{sets.extractor.frechet_name}_inf"
    details = {"r2": result.r2, "needed": result.needed, "reliable": result.reliable}
    se = result.se if result.reliable else None
    return {name: Score(result.value, len(x), reference.n, se, details)}


SCORERS: Mapping[str, Callable[[Sets], dict[str, Score]]] = {
    "fid": _fid,
    "sfid": _sfid,
    "is": _inception_score,
    "pr": _precision_recall,
    "dc": _density_coverage,
    "kid": _kid,
    "fd_inf": _fd_infinity,
    "cmmd": _cmmd,
}
