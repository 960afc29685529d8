"""What each feature network of this package is, and knows about itself."""

from torch import nn


class FeatureNetwork(nn.Module):
    """Maps uint8 images ``(b, 3, h, w)`` to named float32 rows ``(b, d)``.

    Attributes:
        outputs: Width of each output, the one that distances are made from first.
        preprocess_id: What is done to the images before they are seen.
        weights_sha256: Digest of the weights.
        classifier: Maps rows of the first output to class logits, if there are classes.
    """

    outputs: dict[str, int]
    preprocess_id: str
    weights_sha256: str
    classifier: nn.Module | None  # without a default, which would hide a module of that name
