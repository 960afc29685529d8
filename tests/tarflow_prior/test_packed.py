import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tarflow_prior.strategies import configured, few, shapes
from torch.torch_version import TorchVersion

from tarflow_prior import Sequential, TarFlow
from tarflow_prior.attention import Layer, causal_attention
from tarflow_prior.packed import PackedLayer, can_pack

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.float32), reason="this build of torch has no oneDNN"
)


def test_torch_whose_products_depend_on_a_rows_place_packs_nothing(monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.11.0+cu130"))
    assert not can_pack(torch.device("cpu"), torch.float32)


@given(shapes(), st.sampled_from([1, 2, 5]), st.integers(1, 4))
@few
def test_packed_layer_computes_what_the_layer_computes(random_flow, shape, rows, tokens):
    flow = random_flow(configured(shape)).float()
    h = torch.randn(rows, tokens, flow.config.width, generator=torch.Generator().manual_seed(0))
    for layer in flow.blocks[0].layers:
        packed = PackedLayer(layer, torch.float32, rows)
        with torch.no_grad():
            torch.testing.assert_close(
                packed(h, causal_attention), layer(h, causal_attention), atol=1e-5, rtol=1e-5
            )


@pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.bfloat16), reason="needs a CPU with bfloat16"
)
def test_packed_layer_rounds_to_bfloat16_where_autocast_does(config, random_flow):
    layer: Layer = random_flow(config).float().blocks[0].layers[0]
    packed, h = PackedLayer(layer, torch.bfloat16, 3), torch.randn(3, 4, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(h, causal_attention)
    with torch.no_grad():
        actual = packed(h, causal_attention)
        exact = layer(h, causal_attention)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=2e-2, rtol=2e-2)
    assert (actual - exact).abs().max() > 1e-3


def test_float32_decoding_on_a_cpu_is_packed(config, random_flow):
    flow = random_flow(config)

    def kinds(flow: TarFlow, solver: Sequential) -> set[type]:
        blocks = flow.decoder(2, solver=solver)._blocks
        return {type(layer) for block in blocks for layer in block.layers}

    assert kinds(flow.float(), Sequential()) == {PackedLayer}
    assert kinds(flow, Sequential(compiled=True)) == {Layer}
    assert kinds(flow.double(), Sequential()) == {Layer}
    torch.backends.mkldnn.enabled, kept = False, torch.backends.mkldnn.enabled
    try:
        assert kinds(flow.float(), Sequential()) == {Layer}
    finally:
        torch.backends.mkldnn.enabled = kept
