from tests.mim_encoder.refusals import refusals

SETUP = """
import torch
from mim_encoder import *
shape = dict(image_size=8, patch_size=4, width=16, depth=1, num_heads=2, num_latents=2)
replacing, dropping = (
    MaskedEncoder(EncoderConfig(**shape, latent_dim=3, hidden_patches=hidden))
    for hidden in ("mask-token", "dropped")
)
image, masked = torch.zeros(2, 3, 8, 8), torch.tensor([[True, True, False, False]] * 2)
"""

NOT_BOOL = "ValueError: Expected a mask of torch.bool; got {}. Convert it with mask.bool()."
NOT_FITTING = (
    "ValueError: Expected a mask of {} (images x patches); got {}. Draw it with random_mask."
)
NO_TENSOR = "TypeError: Expected {} to be a torch.Tensor; got {}. Convert it with torch.as_tensor."

MASKS = {
    "dropping(image, masked.to(torch.uint8))": NOT_BOOL.format("torch.uint8"),
    "dropping(image, masked.int())": NOT_BOOL.format("torch.int32"),
    "dropping(image, masked.long())": NOT_BOOL.format("torch.int64"),
    "replacing(image, masked.to(torch.uint8))": NOT_BOOL.format("torch.uint8"),
    "replacing(image, masked.float())": NOT_BOOL.format("torch.float32"),
    "replacing(image, masked.numpy())": NO_TENSOR.format("masked", "ndarray"),
    "replacing(image, masked[:1])": NOT_FITTING.format("2x4", "1x4"),
    "replacing(image, masked[0])": NOT_FITTING.format("2x4", "4"),
    "mask_image(image, masked.int(), 4)": NOT_BOOL.format("torch.int32"),
    "mask_image(image, masked[:1], 4)": NOT_FITTING.format("2x4", "1x4"),
    "mask_image(image, masked[:, :3], 4)": NOT_FITTING.format("2x4", "2x3"),
    "mask_to_pixels(masked.int(), (2, 2), 4)": NOT_BOOL.format("torch.int32"),
    "mask_to_pixels(masked, (2, 3), 4)": NOT_FITTING.format("bx6", "2x4"),
    "mask_to_pixels(masked[0], (2, 2), 4)": NOT_FITTING.format("bx4", "4"),
}


def test_masks_must_be_boolean_and_one_for_every_image():
    assert refusals(SETUP, MASKS) == MASKS


NOT_IMAGES = "ValueError: Expected images of shape (b, 3, 8, 8); got {}. {}"
NOT_FLOATS = "ValueError: Expected images of torch.float32, as the weights are; got torch.{}. {}"
CHANNELS_LAST = "Move the channels to the front with image.movedim(-1, 1)."
BATCHES = "Unsqueeze or flatten it to one batch dimension."
TO_FLOAT32 = "Convert them with image.to(torch.float32)."
TO_FLOATS = "Scale bytes to floats in [-1, 1]: image / 127.5 - 1."

IMAGES = {
    "replacing(image[0])": NOT_IMAGES.format("(3, 8, 8)", BATCHES),
    "replacing(image[None])": NOT_IMAGES.format("(1, 2, 3, 8, 8)", BATCHES),
    "replacing(image[:, :1])": NOT_IMAGES.format("(2, 1, 8, 8)", "Convert them to RGB."),
    "replacing(torch.zeros(2, 4, 8, 8))": NOT_IMAGES.format("(2, 4, 8, 8)", "Convert them to RGB."),
    "replacing(torch.zeros(2, 8, 8, 3))": NOT_IMAGES.format("(2, 8, 8, 3)", CHANNELS_LAST),
    "replacing(torch.zeros(2, 9, 9, 4))": NOT_IMAGES.format("(2, 9, 9, 4)", CHANNELS_LAST),
    "replacing(torch.zeros(2, 3, 9, 9))": NOT_IMAGES.format(
        "(2, 3, 9, 9)", "Resize them, or set image_size in EncoderConfig."
    ),
    "replacing(image.to(torch.uint8))": NOT_FLOATS.format("uint8", TO_FLOATS),
    "replacing(image.double())": NOT_FLOATS.format("float64", TO_FLOAT32),
    "replacing(image.bfloat16())": NOT_FLOATS.format("bfloat16", TO_FLOAT32),
    "torch.autocast('cpu')(replacing)(image.double())": NOT_FLOATS.format("float64", TO_FLOAT32),
    "replacing(image.numpy())": NO_TENSOR.format("image", "ndarray"),
}


def test_images_must_be_floats_of_the_configured_shape():
    assert refusals(SETUP, IMAGES) == IMAGES


NO_CONFIG = "TypeError: Expected config to be {}; got {}. {}"
NO_GENERATOR = (
    "TypeError: Expected generator to be a torch.Generator or None; got int 0. "
    "Write torch.Generator().manual_seed(0)."
)

KINDS = {
    "MaskedEncoder('tiny')": NO_CONFIG.format(
        "an EncoderConfig", "str 'tiny'", "Write EncoderConfig.preset('tiny')."
    ),
    "ViTTrunk(EncoderConfig())": NO_CONFIG.format(
        "a TrunkConfig", "EncoderConfig", "Give it a TrunkConfig, such as EncoderConfig().trunk."
    ),
    "random_mask(2, 4, 0.5)": (
        "TypeError: Expected ratio to be a MaskRatio; got float 0.5. "
        "Write MaskRatio(low=0.5, high=0.5)."
    ),
    "random_mask(2, 4, MaskRatio(), generator=0)": NO_GENERATOR,
    "random_mask(2.0, 4, MaskRatio())": (
        "TypeError: Expected batch to be a whole number; got float 2.0. Give one int."
    ),
    "random_mask(2, -4, MaskRatio())": (
        "ValueError: Expected num_patches >= 0; got -4. Choose 0 or more."
    ),
    "replacing(image).sample(generator=0)": NO_GENERATOR,
}


def test_arguments_of_another_kind_are_named():
    assert refusals(SETUP, KINDS) == KINDS


NOT_WHOLE = "TypeError: Expected {} to be a whole number; got {}. Give one int."
NOT_A_NUMBER = "TypeError: Expected {} to be a number; got {}. Give one int or float."

FIELDS = {
    "EncoderConfig(num_latents=2.5)": NOT_WHOLE.format("num_latents", "float 2.5"),
    "EncoderConfig(latent_dim='8')": NOT_WHOLE.format("latent_dim", "str '8'"),
    "EncoderConfig(image_size=32.0)": NOT_WHOLE.format("image_size", "float 32.0"),
    "EncoderConfig(image_size='32')": NOT_WHOLE.format("image_size", "str '32'"),
    "EncoderConfig(image_size=(32, 64))": NOT_WHOLE.format("image_size", "tuple"),
    "EncoderConfig(patch_size=None)": NOT_WHOLE.format("patch_size", "NoneType"),
    "EncoderConfig(width=768.0)": NOT_WHOLE.format("width", "float 768.0"),
    "EncoderConfig(depth=2.5)": NOT_WHOLE.format("depth", "float 2.5"),
    "EncoderConfig(num_heads=1.5)": NOT_WHOLE.format("num_heads", "float 1.5"),
    "EncoderConfig(sigma='0.3')": NOT_A_NUMBER.format("sigma", "str '0.3'"),
    "EncoderConfig(mlp_ratio='4')": NOT_A_NUMBER.format("mlp_ratio", "str '4'"),
    "EncoderConfig(layer_scale='1e-5')": NOT_A_NUMBER.format("layer_scale", "str '1e-5'"),
    "TrunkConfig(width=8, depth=1, num_heads=1, num_prefix=1.5)": NOT_WHOLE.format(
        "num_prefix", "float 1.5"
    ),
    "TrunkConfig(width=8, depth=1, num_heads=1, num_prefix=1, drop_path='0')": NOT_A_NUMBER.format(
        "drop_path", "str '0'"
    ),
    "MaskRatio(low='0.4')": NOT_A_NUMBER.format("low", "str '0.4'"),
    "rate_bits(-0.5, 0.3, 2.5)": NOT_WHOLE.format("num_dims", "float 2.5"),
    "EncoderConfig.preset(3)": (
        "TypeError: Expected preset to be a name; got int 3. Choose among tiny, S, B, L, XL."
    ),
}


def test_fields_of_another_type_are_named():
    assert refusals("from mim_encoder import *", FIELDS) == FIELDS


NOT_PATCHES = (
    "ValueError: Expected patches of shape (b, 4, 16 * channels); got {}. "
    "Give the grid and patch_size that they were cut with."
)
NOT_BATCHED = "ValueError: Expected images of shape (b, c, h, w); got (3, 8, 8). " + BATCHES

PATCHES = {
    "unpatchify(torch.zeros(2, 5, 48), (2, 2), 4)": NOT_PATCHES.format("(2, 5, 48)"),
    "unpatchify(torch.zeros(2, 4, 47), (2, 2), 4)": NOT_PATCHES.format("(2, 4, 47)"),
    "unpatchify(torch.zeros(4, 48), (2, 2), 4)": NOT_PATCHES.format("(4, 48)"),
    "unpatchify(torch.zeros(2, 4, 48), 2, 4)": (
        "TypeError: Expected grid to be a pair; got int 2. "
        "Give two whole numbers, such as (16, 16)."
    ),
    "patchify(image[0], 4)": NOT_BATCHED,
    "patchify(image, 4.0)": NOT_WHOLE.format("patch_size", "float 4.0"),
    "patchify(image, 0)": (
        "ValueError: Expected patch_size above 0; got 0. Choose a positive number."
    ),
    "mask_image(image[0], masked, 4)": NOT_BATCHED,
    "mask_to_pixels(masked, (2, 2), 4.0)": NOT_WHOLE.format("patch_size", "float 4.0"),
}


def test_patches_must_be_of_the_grid():
    assert refusals(SETUP, PATCHES) == PATCHES


LATENTS = {
    "latent_statistics(replacing(image), 0.3)": (
        "TypeError: Expected mean to be a torch.Tensor; got LatentPosterior. "
        "Give it posterior.mean."
    ),
    "latent_statistics(replacing(image).mean[0], 0.3)": (
        "ValueError: Expected mean of shape (b, k, d); got (2, 3). "
        "Concatenate the latents of many images."
    ),
}


def test_statistics_are_taken_of_the_means():
    assert refusals(SETUP, LATENTS) == LATENTS
