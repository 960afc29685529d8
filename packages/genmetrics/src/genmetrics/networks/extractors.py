"""Feature networks under one roof: uint8 images in, named float32 vectors per image out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from genmetrics.checks import described, require_bytes
from genmetrics.errors import UsageError, did_you_mean
from genmetrics.factories import call_factory, is_factory
from genmetrics.full_precision import full_float32
from genmetrics.networks.extractor_names import (
    BUILT_IN,
    FAMILIES,
    check_extractor_name,
    plugin_extractors,
)
from genmetrics.networks.feature_network import FeatureNetwork


@dataclass(frozen=True, slots=True)
class Extractor:
    """A frozen feature network with everything that a score made from it depends on.

    Args:
        name: How scores name it.
        outputs: Numbers per feature of each output, the main output first.
        preprocess_id: Resizing and normalisation, in words.
        weights_sha256: Digest of the weight file.
        network: Maps uint8 images to a dictionary of the outputs, in one pass. It is run in eval
            mode, and put back if it was in training.
        device: Where it runs.
        classifier: Maps the main output to class logits; None if the network has no classes.
    """

    name: str
    outputs: Mapping[str, int]
    preprocess_id: str
    weights_sha256: str
    network: nn.Module
    device: torch.device
    classifier: nn.Module | None = None

    @classmethod
    def of(
        cls,
        network: nn.Module,
        *,
        name: str,
        float_range: tuple[float, float] | None = None,
        side: int = 64,
        device: str | torch.device | None = None,
    ) -> "Extractor":
        """Wrap a network of your own, as it is now: a copy is kept, frozen and in eval mode.

        It gets images as they are, of any size that a set has: what resizes and normalises them
        belongs into it. Its output is called ``features``. Statistics tell networks by layers and
        weights, a cache of features also by what they make of two images of noise.

        Args:
            network: Maps images ``(b, 3, h, w)`` to rows of floats ``(b, d)``.
            name: How scores call it, as in ``fd_mine``.
            float_range: Values of black and white, such as ``(0.0, 1.0)`` or ``(-1.0, 1.0)``, in
                the float32 images that the network takes; None if it takes uint8.
            side: Height and width of the two images by which its width is found.
            device: Where it runs; None for where its parameters are.

        Raises:
            UsageError: If it cannot be run or returns anything else, or the name is taken.

        Example:
            >>> network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
            >>> extractor = Extractor.of(network, name="means", float_range=(0.0, 1.0), side=16)
            >>> extractor.outputs, extractor.frechet_name
            ({'features': 12}, 'fd_means')
        """
        from genmetrics.networks.own_networks import OwnFeatures

        if not name or name in BUILT_IN:
            raise UsageError(
                f"Expected a name of its own for the network; got {name!r}. Scores are called by "
                f"it, and {', '.join(BUILT_IN)} are other networks."
            )
        own = OwnFeatures(network, float_range, side=side)
        if device is None:
            device = next(own.parameters(), torch.empty(0)).device
        return cls._around(name, own, device)

    @classmethod
    def _around(cls, name: str, network: FeatureNetwork, device: str | torch.device) -> "Extractor":
        return cls(
            name,
            network.outputs,
            network.preprocess_id,
            network.weights_sha256,
            network.to(device).eval(),
            torch.device(device),
            network.classifier,
        )

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float32[Tensor, "b _"]]:
        """Return every output on the extractor's device, in full float32 (no autocast, no TF32).

        Raises:
            BadInput: If the images are not bytes.
            UsageError: If the network returns other outputs or widths than were declared.
        """
        require_bytes(images)
        with full_float32(self.device), eval_mode(self.network):
            features: dict[str, Tensor] = self.network(images.to(self.device))
        self._require_declared(features, len(images))
        return features

    def _require_declared(self, features: object, n: int) -> None:
        wanted = {name: (n, dim) for name, dim in self.outputs.items()}
        found = None
        if isinstance(features, Mapping):
            found = {name: tuple(getattr(rows, "shape", ())) for name, rows in features.items()}
        if found != wanted:
            raise UsageError(
                f"Expected {_listed(wanted)} from the network of {self.name}; got "
                f"{described(features) if found is None else _listed(found)}. Correct the "
                "extractor's outputs or its network."
            )

    def logits(self, features: Float32[Tensor, "n d"]) -> Float32[Tensor, "n classes"]:
        """Return the class logits of main-output features, on the features' device.

        Inception's are those of the Inception Score: 1008, without the bias.

        Args:
            features: Main output of this extractor.

        Raises:
            UsageError: If the network has no classifier.

        Example:
            >>> extractor = get_extractor("efflite0")
            >>> extractor.logits(torch.zeros(3, 1280)).shape
            torch.Size([3, 1000])
        """
        if self.classifier is None:
            raise UsageError(
                f"Expected an extractor with a classifier (inception, efflite0); got {self.name}. "
                "Choose one of these for class scores."
            )
        with full_float32(self.device), eval_mode(self.classifier):
            logits: Tensor = self.classifier(features.to(self.device))
        return logits.to(features.device)

    @property
    def provenance(self) -> dict[str, str]:
        """What two sets of features must share to be compared."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "preprocess_id": self.preprocess_id,
        }

    @property
    def main_output(self) -> str:
        """Name of the output that distances are made from: the first."""
        return next(iter(self.outputs))

    @property
    def dim(self) -> int:
        """Numbers per feature of the main output."""
        return self.outputs[self.main_output]

    @property
    def frechet_name(self) -> str:
        """Name of a Frechet distance of these features: only Inception's may be called FID."""
        return "fid" if self.name == "inception" else f"fd_{self.name}"

    @property
    def inception_score_name(self) -> str:
        """Name of an Inception Score of these logits: only Inception's may be called IS."""
        return "is" if self.name == "inception" else f"is_{self.name}"


def get_extractor(
    name: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """Build a feature network, never falling back to random weights.

    The names are ``inception`` (the network of FID and sFID), ``efflite0`` (a small ImageNet
    network whose weights ship in a package), ``dinov2`` (ViT-L/14 at 224 px, the network of
    FD-DINOv2), ``clip`` (OpenAI's ViT-L/14 at 336 px, the network of CMMD), ``timm:NAME`` and
    ``open_clip:ARCH[/TAG]`` for any model of these libraries, those of
    :func:`~genmetrics.networks.extractor_names.plugin_extractors`, and ``package.module:function``
    for a function like theirs.

    Args:
        name: Which network.
        weights: The weight file. None searches: the package of ``efflite0``, the variable
            GENMETRICS_INCEPTION_WEIGHTS, the folder GENMETRICS_WEIGHTS, then the caches of
            torch-fidelity or of the Hugging Face hub, into which what they lack is downloaded
            (not with GENMETRICS_OFFLINE=1 or HF_HUB_OFFLINE=1).
        device: Where to run, such as ``cpu`` or ``cuda:0``.

    Raises:
        UsageError: If there is no such extractor.
        WeightsUnavailable: If the weights or the library are missing or not the right ones.

    Example:
        >>> extractor = get_extractor("efflite0")
        >>> features = extractor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        >>> {name: tuple(rows.shape) for name, rows in features.items()}
        {'features': (2, 1280)}
    """
    check_extractor_name(name)
    weights = None if weights is None else Path(weights)
    plugins = plugin_extractors()
    if name in plugins:
        made = plugins[name].load()(weights, str(device))
        return _made_by(f"the plugin {name} ({plugins[name].value})", made)
    family = name.partition(":")[0]
    if is_factory(name) and family not in FAMILIES:
        try:
            made = call_factory(name, weights, str(device), told_as=name, wanted="an Extractor")
        except UsageError as error:
            raise UsageError(f"{error}{did_you_mean(family, FAMILIES)}") from error
        return _made_by(name, made)
    return Extractor._around(name, _built_in(name, weights), device)


def _made_by(factory: str, extractor: object) -> Extractor:
    if not isinstance(extractor, Extractor):
        raise UsageError(
            f"Expected an Extractor from {factory}; got {type(extractor).__name__}. "
            "Correct its factory."
        )
    return extractor


def as_extractor(extractor: object) -> Extractor:
    """Return a feature network, built if its name stands for it.

    Raises:
        UsageError: If it is neither, or there is none of that name.
        WeightsUnavailable: If its weights are missing.
    """
    if isinstance(extractor, str):
        return get_extractor(extractor)
    if isinstance(extractor, Extractor):
        return extractor
    wrapped = "Wrap it: Extractor.of(network, name='mine')."
    raise UsageError(
        f"Expected an Extractor or the name of one; got {described(extractor)}. "
        f"{wrapped if isinstance(extractor, nn.Module) else 'Pass one such.'}"
    )


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"


def _built_in(name: str, weights: Path | None) -> FeatureNetwork:
    """Import and build a network, each with the libraries that only it needs."""
    from genmetrics.networks import efflite0, inception, open_clip_networks, timm_networks

    family, _, rest = name.partition(":")
    if name == "inception":
        return inception.InceptionFeatures(inception.find_inception_weights(weights))
    if name == "efflite0":
        return efflite0.EffLite0Features(weights)
    if name == "dinov2":
        return timm_networks.dinov2_features(timm_networks.find_dinov2_weights(weights))
    if name == "clip":
        return open_clip_networks.clip_features(open_clip_networks.find_clip_weights(weights))
    if family == "timm":
        return timm_networks.timm_features(rest, weights)
    return open_clip_networks.open_clip_features(rest, weights)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode for the block; its parts that were in training return to that."""
    in_training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True  # train() would take the parts below along
