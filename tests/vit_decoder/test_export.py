from tests.scripts import run_script

EXPORTED = """
import torch
from vit_decoder import DecoderConfig, FeatureDecoder, FeatureDecoderConfig, PixelDecoder
shape = dict(num_latents=16, latent_dim=16)
decoders = [
    PixelDecoder(DecoderConfig.preset("tiny", depth=1, head=head)) for head in ("linear", "refined")
] + [
    FeatureDecoder(FeatureDecoderConfig(grid=(8, 8), feature_dim=5, kind=kind, depth=1, **shape))
    for kind in ("transformer", "mlp")
]
z = torch.randn(5, 16, 16)
for decoder in decoders:
    batch = {0: torch.export.Dim("b")}
    program = torch.export.export(decoder, (z[:2],), dynamic_shapes=(batch,))
    torch.export.save(program, "decoder.pt2")
    print(torch.equal(torch.export.load("decoder.pt2").module()(z), decoder(z)))
"""


def test_decoders_are_exported_for_any_number_of_images(tmp_path):
    run = run_script(EXPORTED, tmp_path)  # no type checks to trace
    assert run.stdout == "True\n" * 4, run.stderr[-2000:]
