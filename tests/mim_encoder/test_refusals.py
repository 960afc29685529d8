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
