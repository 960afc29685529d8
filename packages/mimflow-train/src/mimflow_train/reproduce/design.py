"""What an experiment is: its runs, what is measured of them, and what the paper says of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from mimflow_train.config import TEACHERS
from mimflow_train.errors import ConfigError
from tarflow_prior import Guidance

__all__ = [
    "COLLAPSE",
    "COSTS",
    "LOWER_IS_BETTER",
    "Claim",
    "Experiment",
    "Measure",
    "Scales",
    "Variant",
]

Measure = Literal["scores", "parameters", "step", "tokens", "map", "spectra", "depths"]
Scales = Literal["all", "tiny", "paper"]

COLLAPSE = "diverged"  # the metric of a claim that training collapses
COSTS = frozenset({"memory_gb", "steps_per_s", "train_ms", "sample_s"})  # have no seeds
LOWER_IS_BETTER = frozenset(
    {
        "gfid",
        "sfid",
        "rfid",
        "rfid_masked",
        "fd_rebuilt",
        "log10_kappa",
        "log10_kappa_range",
        "log10_sigma_min_range",
        "memory_gb",
        "train_ms",
        "sample_s",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row: what it changes of the scale's recipe.

    Attributes:
        label: What the row is called.
        settings: Changes of the recipe, as ``--set`` takes them.
        targets: Teachers to imitate; None leaves the recipe's.
        tokens: Latent tokens for each patch of the image; None leaves the recipe's.
        decoder_phase: Whether the decoder is trained on, against a discriminator.
        convolutional: Whether the autoencoder is SD-VAE's, at scale tiny a small one of its kind.
        two_stage: Whether that is fixed when the flow is trained: published, or trained before.
        guidance: What samples are drawn with; ``recipe`` is the recipe's.
        scales: Where it can be run; ``paper`` is every scale but tiny.
        left_out: Whether the user wants other rows alone.
        paper: The paper's numbers by metric, words where it gives no number.
    """

    label: str
    settings: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
    tokens: Fraction | None = None
    decoder_phase: bool = False
    convolutional: bool = False
    two_stage: bool = False
    guidance: Guidance | Literal["recipe"] | None = None
    scales: Scales = "all"
    left_out: bool = False
    paper: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.convolutional or not self.two_stage, self.label
        unknown = sorted(set(self.targets or ()) - set(TEACHERS))
        if unknown:
            raise ConfigError(
                f"Expected targets among {', '.join(TEACHERS)}; got {', '.join(unknown)}."
            )

    def why_not(self, scale: str) -> str:
        """Return why the row is not run at a scale; empty if it is."""
        if self.scales != "all" and (self.scales == "tiny") != (scale == "tiny"):
            return "for --scale tiny only" if self.scales == "tiny" else "needs --scale S to XXL"
        return "left out by --row" if self.left_out else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper as an order of two rows.

    Attributes:
        text: The sentence, in short.
        metric: What is compared; ``diverged`` says that the other row's training collapses.
        better: Label of the row that should be better.
        worse: Label of the other.
    """

    text: str
    metric: str
    better: str
    worse: str

    @property
    def sign(self) -> int:
        """Return 1 if more is better, else -1."""
        return -1 if self.metric in LOWER_IS_BETTER else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        title: What it shows.
        measure: What is done with the runs.
        variants: The rows.
        claims: What the paper concludes from them.
        notes: What a reader must know of our side.
        paper_settings: Changes of the recipe at every scale but tiny, such as the length of the
            paper's ablations.
        num: Samples of each row at every scale but tiny, unless the user says how many; 0 is as
            many as there are held-out images.
    """

    title: str
    measure: Measure
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    paper_settings: tuple[str, ...] = ()
    num: int = 0

    @property
    def trains(self) -> bool:
        """Whether anything is trained for it, which takes images."""
        return self.measure not in ("parameters", "step", "tokens")

    def has_no_flow(self, variant: Variant) -> bool:
        """Return whether a row is of the latents of a fixed autoencoder alone.

        Args:
            variant: The row.
        """
        return variant.two_stage and self.measure == "map"

    @property
    def has_single_rows(self) -> bool:
        """Whether one row can be had without the others."""
        return self.measure not in ("parameters", "depths")

    def only(self, labels: Sequence[str]) -> "Experiment":
        """Return the experiment with all other rows left out.

        Args:
            labels: Of the rows that are wanted.
        """
        variants = (replace(each, left_out=each.label not in labels) for each in self.variants)
        return replace(self, variants=tuple(variants))

    @property
    def is_convolutional(self) -> bool:
        """Whether a row is made with SD-VAE, or a small network of its kind."""
        counted = self.measure == "parameters"
        return counted or any(each.convolutional for each in self.variants)

    def __post_init__(self) -> None:
        labels = {variant.label for variant in self.variants}
        for claim in self.claims:
            assert {claim.better, claim.worse} <= labels, claim
