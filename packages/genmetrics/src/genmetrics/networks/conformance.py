"""What a feature network must do for its scores to mean something; for authors of plugins."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import UInt8
from torch import Tensor

from genmetrics.full_precision import full_float32
from genmetrics.networks.extractors import Extractor

_SIZES = ((29, 31), (41, 23))
_ROUNDING = 1e-3  # of the largest feature; batches change float32 features by 1e-6 or so


def check_extractor(extractor: Extractor) -> list[str]:
    """Return what is wrong with a feature network, a sentence each; an empty list if nothing is.

    It is given uint8 images of two sizes. Every declared output must come, and no other, as
    float32 rows of the declared width, finite, the same on a second call, and the same for an image
    alone as within a batch. Different images must have different main features.

    Args:
        extractor: The network; it runs six times on at most three small images.

    Example:
        >>> from genmetrics import get_extractor
        >>> check_extractor(get_extractor("efflite0"))
        []
    """
    problems = [*_declarations(extractor)]
    for height, width in _SIZES:
        images = _images(height, width).to(extractor.device)
        try:
            features = _call(extractor, images)
        except Exception as error:  # whatever a plugin raises is what it did wrong
            return [
                *problems,
                f"Expected features of uint8 images of {width}x{height}; got "
                f"{type(error).__name__}: {error}.",
            ]
        wrong = [*_shapes(extractor, features, len(images))]
        problems += wrong or [*_behaviour(extractor, images, features)]
    return list(dict.fromkeys(problems))


def _images(height: int, width: int) -> UInt8[Tensor, "3 3 h w"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=generator)


def _call(extractor: Extractor, images: Tensor) -> Mapping[str, Tensor]:
    """Run the network itself, since the extractor's annotations may be checked where it is used."""
    with full_float32(extractor.device):
        features = extractor.network(images)
    if not isinstance(features, Mapping):
        raise TypeError(f"a {type(features).__name__} in place of a dictionary of outputs")
    return features


def _declarations(extractor: Extractor) -> Iterator[str]:
    if not extractor.outputs:
        yield "Expected at least one output; got none."
    for label in ("name", "preprocess_id", "weights_sha256"):
        if not getattr(extractor, label):
            yield f"Expected {label} to say what scores depend on; got an empty text."
    if extractor.network.training:
        yield "Expected the network in eval mode; got training mode."
    if any(p.requires_grad for p in extractor.network.parameters()):
        yield "Expected frozen weights; got parameters that require gradients."


def _shapes(extractor: Extractor, features: Mapping[str, Tensor], n: int) -> Iterator[str]:
    if features.keys() != extractor.outputs.keys():
        yield f"Expected the outputs {list(extractor.outputs)}; got {list(features)}."
    for name in extractor.outputs.keys() & features.keys():
        rows, dim = features[name], extractor.outputs[name]
        if rows.dtype != torch.float32:
            yield f"Expected {name} in float32; got {rows.dtype}."
        if rows.shape != (n, dim):
            yield f"Expected {name} of shape {(n, dim)}; got {tuple(rows.shape)}."
        elif not rows.isfinite().all():
            yield f"Expected finite {name}; got NaN or infinity."


def _behaviour(
    extractor: Extractor, images: Tensor, features: Mapping[str, Tensor]
) -> Iterator[str]:
    again, alone = _call(extractor, images), _call(extractor, images[1:2])
    for name, rows in features.items():
        if not torch.equal(again[name], rows):
            yield f"Expected {name} to be the same on a second call; got others."
        elif (alone[name][0] - rows[1]).abs().max() > _ROUNDING * rows.abs().max():
            yield f"Expected {name} of an image not to depend on its batch; got others alone."
    main = features[extractor.main_output]
    if torch.equal(main[0], main[1]):
        yield f"Expected {extractor.main_output} to differ between images; got the same."
