from tests.mim_encoder.refusals import refusals

SETUP = """
import torch
from mim_encoder import EncoderConfig, LatentPosterior
from vit_decoder import *
latents = dict(num_latents=5, latent_dim=7)
sizes = dict(width=16, depth=1, num_heads=2)
pixels = PixelDecoder(DecoderConfig(image_size=8, patch_size=4, **latents, **sizes))
features, mlp = (
    FeatureDecoder(FeatureDecoderConfig(grid=(5, 2), kind=kind, **latents, **sizes))
    for kind in ("transformer", "mlp")
)
z = torch.zeros(2, 5, 7)
posterior = LatentPosterior(z, 0.3, z)
"""

NO_TENSOR = "TypeError: Expected z to be a torch.Tensor; got {}. {}"
POSTERIOR = "Give it posterior.sample() or posterior.mean."
NOT_LATENTS = "ValueError: Expected z of shape (b, 5, 7); got {}. {}"
BATCHES = "Unsqueeze or flatten it to one batch dimension."
ENCODERS = "Set num_latents and latent_dim of the decoder to the encoder's."
NOT_FLOATS = (
    "ValueError: Expected z of torch.float32, as the weights are; got torch.{}. "
    "Convert it with z.to(torch.float32)."
)

LATENTS = {
    f"{decoder}({argument})": message
    for decoder in ("pixels", "features", "mlp")
    for argument, message in {
        "z[0]": NOT_LATENTS.format("(5, 7)", BATCHES),
        "z[None]": NOT_LATENTS.format("(1, 2, 5, 7)", BATCHES),
        "z.mT": NOT_LATENTS.format("(2, 7, 5)", ENCODERS),
        "posterior": NO_TENSOR.format("LatentPosterior", POSTERIOR),
        "z.numpy()": NO_TENSOR.format("ndarray", POSTERIOR),
        "z.double()": NOT_FLOATS.format("float64"),
        "z.long()": NOT_FLOATS.format("int64"),
    }.items()
}


def test_latents_must_be_floats_of_the_configured_shape():
    assert refusals(SETUP, LATENTS) == LATENTS


NO_CONFIG = "TypeError: Expected config to be a {}; got {}. Write {}."

CONFIGS = {
    "PixelDecoder({'depth': 1})": NO_CONFIG.format(
        "DecoderConfig", "dict", "DecoderConfig.preset('tiny')"
    ),
    "FeatureDecoder(EncoderConfig())": NO_CONFIG.format(
        "FeatureDecoderConfig", "EncoderConfig", "FeatureDecoderConfig(grid=(8, 8))"
    ),
}


def test_decoders_are_built_from_configs():
    assert refusals(SETUP, CONFIGS) == CONFIGS


NOT_WHOLE = "TypeError: Expected {} to be a whole number; got {}. Give one int."
NOT_A_PAIR = "Error: Expected {} to be a pair{}. Give two whole numbers, such as {}."

FIELDS = {
    "DecoderConfig(num_latents=2.5)": NOT_WHOLE.format("num_latents", "float 2.5"),
    "DecoderConfig(image_size=(32, 64))": NOT_WHOLE.format("image_size", "tuple"),
    "FeatureDecoderConfig(feature_dim='8')": NOT_WHOLE.format("feature_dim", "str '8'"),
    "FeatureDecoderConfig(grid=8)": "Type" + NOT_A_PAIR.format("grid", "; got int 8", "(16, 16)"),
    "FeatureDecoderConfig(grid=(8.0, 8))": "Type"
    + NOT_A_PAIR.format("grid", " of whole numbers; got float 8.0", "(16, 16)"),
    "FeatureDecoderConfig(grid=(8, 8, 8))": "Value"
    + NOT_A_PAIR.format("grid", "; got (8, 8, 8)", "(16, 16)"),
    "pixels(z, size=32)": "Type" + NOT_A_PAIR.format("size", "; got int 32", "(8, 8)"),
    "pixels(z, size='32')": "Type" + NOT_A_PAIR.format("size", "; got str '32'", "(8, 8)"),
    "pixels(z, size=(8, 8.0))": "Type"
    + NOT_A_PAIR.format("size", " of whole numbers; got float 8.0", "(8, 8)"),
    "pixels(z, size=[8])": "Value" + NOT_A_PAIR.format("size", "; got (8,)", "(8, 8)"),
}


def test_fields_and_sizes_of_another_type_are_named():
    assert refusals(SETUP, FIELDS) == FIELDS


DRAWS = {
    f"pixels(z, uniform=torch.rand{shape})": (
        "ValueError: Expected uniform of shape (2, 1, 2) (images, blocks, branches); "
        f"got {shape}. Draw it with torch.rand(2, 1, 2)."
    )
    for shape in ((1, 1, 2), (2, 2, 2), (2, 1, 1))
}


def test_every_branch_of_every_image_has_a_draw_of_its_own():
    assert refusals(SETUP, DRAWS) == DRAWS
