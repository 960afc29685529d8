import copy
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.scripts import run_script
from tests.tarflow_prior.strategies import configured, few, shapes
from torch.profiler import ProfilerActivity, profile

from tarflow_prior import (
    Guidance,
    Jacobi,
    NonFiniteError,
    Sequential,
    TarFlow,
    TarFlowConfig,
    nll_per_dim,
)
from tarflow_prior.attention import causal_attention
from tarflow_prior.decoding import Decoder
from tarflow_prior.inversion import BlockDecoder

HOT = Guidance(1.0, attention_temperature=1.7)


def assert_near(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_batch_may_be_split_without_changing_a_sample(config, random_flow):
    flow = random_flow(config)

    def drawn(*counts):
        generator = torch.Generator().manual_seed(0)
        return torch.cat([flow.sample(count, generator=generator) for count in counts])

    torch.testing.assert_close(drawn(6), drawn(1, 3, 2), atol=1e-12, rtol=1e-12)


@given(st.permutations(range(7)), st.sampled_from([2, 4, 8]), st.booleans())
@few
def test_tile_makes_a_sample_independent_of_its_batch_bit_for_bit(random_flow, order, tile, guided):
    config = TarFlowConfig(num_tokens=6, token_dim=3, width=64, depths=(2, 2), num_classes=4)
    flow = random_flow(config, head_std=0.03).float()
    u = torch.randn(7, 6, 3, generator=torch.Generator().manual_seed(1))
    label, guidance = torch.arange(7) % 4, Guidance(2.0) if guided else None
    whole = flow.inverse(u, label, guidance=guidance, tile=tile)
    shuffled = flow.inverse(u[order], label[order], guidance=guidance, tile=tile)
    assert torch.equal(shuffled, whole[order])
    one = flow.inverse(u[:1], label[:1], guidance=guidance, tile=tile)
    assert torch.equal(one, whole[:1])
    free = flow.inverse(u, label, guidance=guidance)
    torch.testing.assert_close(free, whole, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tile", [0, -4, 6])
def test_tile_that_is_no_power_of_two_is_refused(config, random_flow, tile):
    with pytest.raises(ValueError, match=f"Expected tile to be a power of two; got {tile}"):
        random_flow(config).sample(2, tile=tile)


def test_non_finite_sample_of_a_tile_keeps_its_number_and_all_others(config, random_flow):
    flow = random_flow(config)
    u = torch.randn(9, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    sound = flow.inverse(u, tile=4)
    noise = u.clone()
    noise[[4, 6]] = float("inf")
    with pytest.raises(NonFiniteError, match=r"2 of 9 samples .* sample 4 ") as caught:
        flow.inverse(noise, tile=4)
    assert caught.value.samples == [4, 6]
    keep = torch.tensor([0, 1, 2, 3, 5, 7, 8])
    assert torch.equal(caught.value.z[keep], sound[keep])
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.samples) == (str(caught.value), [4, 6])


def test_decoder_refuses_what_it_was_not_made_for(config, random_flow, random_batch):
    decoder = random_flow(config).decoder(4)
    u, _ = random_batch(config, batch=4)
    with pytest.raises(ValueError, match=r"Expected noise of 4 samples.*got 1"):
        decoder.decode(u[:1])
    with pytest.raises(ValueError, match=r"shape \(b, 5, 3\); got \(4, 1, 3\)"):
        decoder.decode(u[:, :1])
    with pytest.raises(ValueError, match="num_samples of at least 1; got 0"):
        random_flow(config).decoder(0)
    with pytest.raises(ValueError, match="float32 or float64 weights"):
        random_flow(config).bfloat16().decoder(2)


def test_decoder_takes_labels_of_short_integers(config, random_flow, random_batch):
    u, _ = random_batch(config)
    decoder, label = random_flow(config).decoder(len(u)), torch.tensor([3, 0])
    wanted = decoder(u, label)
    for kind in (torch.int8, torch.int16):
        found = decoder(u, label.to(kind))
        assert torch.equal(found.z, wanted.z)
        assert torch.equal(found.residual, wanted.residual)


@pytest.mark.parametrize("decode", [Decoder.__call__, Decoder.decode, Decoder.in_tiles])
@pytest.mark.parametrize("outside", [4, -2])
def test_decoder_refuses_labels_out_of_range(config, random_flow, random_batch, decode, outside):
    u, _ = random_batch(config)
    with pytest.raises(ValueError, match=rf"Expected labels in 0\.\.3, .*; got {outside}"):
        decode(random_flow(config).decoder(2), u, torch.tensor([0, outside]))


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)], ids=["unguided", "guided"])
def test_no_noise_decodes_to_no_samples(config, random_flow, random_batch, guidance):
    flow = random_flow(config)
    u, label = random_batch(config, batch=0)
    decoded = flow.decode(u, label, guidance=guidance)
    assert (decoded.z.shape, decoded.residual.shape) == ((0, 5, 3), (0,))
    assert decoded.sweeps == (0, 0, 0)
    assert flow.inverse(u, label, guidance=guidance).shape == (0, 5, 3)
    assert flow.decoder(2, guidance=guidance).in_tiles(u, label).shape == (0, 5, 3)


def test_decoder_refuses_to_go_on_with_changed_weights(config, random_flow, random_batch):
    flow = random_flow(config)
    u, label = random_batch(config)
    decoder = flow.decoder(2)
    decoder(u, label)
    with torch.no_grad():
        flow.blocks[0].layers[0].mlp_in.weight.mul_(1.5)
    with pytest.raises(RuntimeError, match="Make a new decoder after a training step"):
        decoder(u, label)


@pytest.mark.parametrize("write", ["fused", "data"])
def test_decoder_notices_writes_that_torch_does_not_count(config, random_flow, random_batch, write):
    flow = random_flow(config).float()
    u, label = random_batch(config)
    decoder = flow.decoder(2)
    decoder(u, label)
    versions = [weight._version for weight in flow.parameters()]
    if write == "fused":
        nll_per_dim(flow(u, label)).sum().backward()
        torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True).step()
    else:
        flow.blocks[1].positions.data[0, 0] += 1e-4
    assert [weight._version for weight in flow.parameters()] == versions
    with pytest.raises(RuntimeError, match="Make a new decoder after a training step"):
        decoder(u, label)


def test_decoder_reads_weights_of_any_precision_beside_its_own(config, random_flow, random_batch):
    """As of an adapter in bfloat16."""
    flow = random_flow(config).float()
    u, label = random_batch(config)
    flow.blocks[0].register_parameter("adapter", torch.nn.Parameter(torch.zeros(3).bfloat16()))
    decoder = flow.decoder(2)
    decoder(u, label)
    flow.blocks[0].adapter.data += 1
    with pytest.raises(RuntimeError, match="Make a new decoder after a training step"):
        decoder(u, label)


def test_decoder_refuses_to_go_on_with_weights_put_in_place_of_its_own(
    config, random_flow, random_batch
):
    flow = random_flow(config)
    u, label = random_batch(config)
    decoder = flow.decoder(2)
    same = {name: weight.clone() for name, weight in flow.state_dict().items()}
    flow.load_state_dict(same, assign=True)
    with pytest.raises(RuntimeError, match="Make a new decoder after a training step"):
        decoder(u, label)


def test_decoder_works_in_and_out_of_inference_mode(config, random_flow, random_batch):
    flow = random_flow(config)
    u, label = random_batch(config)
    with torch.inference_mode():
        decoder = flow.decoder(2)
        inside = decoder(u, label).z
    assert torch.equal(decoder(u, label).z, inside)


def test_interleaved_decoders_do_not_interfere(config, random_flow, random_batch):
    flow = random_flow(config)
    u, label = random_batch(config)
    first, second = flow.decoder(2), flow.decoder(2, guidance=Guidance(2.0))
    alone = first(u, label).z, second(u, label).z
    assert not torch.equal(*alone)
    assert torch.equal(first(u, label).z, alone[0])
    assert torch.equal(second(u, label).z, alone[1])
    assert torch.equal(first(u, label).z, alone[0])


@given(shapes(), st.sampled_from([None, Guidance(2.0), Guidance(1.0, blocks="all"), HOT]))
@few
def test_step_for_all_positions_agrees_with_the_eager_one(random_flow, shape, guidance):
    config = configured(shape)
    flow = random_flow(config)
    u = torch.randn(3, config.num_tokens, config.token_dim, dtype=torch.float64)
    label = torch.tensor([-1, 0, 0]) if config.num_classes else None
    eager = flow.decoder(3, guidance=guidance)
    fixed = flow.decoder(3, guidance=guidance)
    taken = _fix_steps(fixed)
    expected = eager(u, label).z
    # Values of hundreds have digits of 1e-13; the largest that was seen among them is 756.
    assert_near(fixed(u, label).z, expected, atol=1e-12 * max(1, expected.abs().max().item()))
    assert len(taken) == len(config.depths) * (config.num_tokens - 1)


def _fix_steps(decoder: Decoder) -> list[bool]:
    """Take the step for all positions as it is, which this run's type checks keep uncompiled.

    Returns a list that will hold, for each such step, whether it was guided.
    """
    taken: list[bool] = []
    for block in decoder._blocks:
        for is_guided in (False, True):
            block.graphs[is_guided] = _fixed(block, taken, is_guided=is_guided)
        block.solver = block.fixed = Sequential(compiled=True)
    return taken


def _fixed(block: BlockDecoder, taken: list[bool], *, is_guided: bool):
    def step():
        taken.append(is_guided)
        block.step_at(block.buffers.rank, is_guided=is_guided)

    return step


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)], ids=["unguided", "guided"])
def test_fixed_step_forgets_a_sample_that_was_not_finite(
    config, random_flow, random_batch, guidance
):
    decoder = random_flow(config).decoder(2, guidance=guidance)
    _fix_steps(decoder)
    u, label = random_batch(config)
    sound = decoder.decode(u, label)[0]
    noise = u.clone()
    noise[0, 2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="1 of 2 samples") as caught:
        decoder.decode(noise, label)
    assert torch.equal(caught.value.z[1], sound[1])
    assert torch.equal(decoder.decode(u, label)[0], sound)


def test_fixed_step_reports_the_sample_of_a_tile_that_is_not_finite_alone(
    config, random_flow, random_batch
):
    decoder = random_flow(config).decoder(2)
    _fix_steps(decoder)
    u, label = random_batch(config, batch=6)
    u[0, 2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="1 of 6 samples") as caught:
        decoder.in_tiles(u, label)
    assert caught.value.samples == [0]


def test_tiles_report_the_rows_of_the_whole_batch(config, random_flow, random_batch):
    flow = random_flow(config)
    u, label = random_batch(config, batch=7)
    wanted = flow.inverse(u, label, tile=2)
    u[3, 2, 1], u[6, 0, 0] = float("inf"), float("nan")
    with pytest.raises(
        NonFiniteError, match=r"2 of 7 samples.* the first of them sample 3 "
    ) as caught:
        flow.inverse(u, label, tile=2)
    assert caught.value.samples == [3, 6]
    sound = [0, 1, 2, 4, 5]
    assert torch.equal(caught.value.z[sound], wanted[sound])


def test_tiles_take_the_memory_of_one_beside_the_samples(config, random_flow):
    flow, sizes = random_flow(config).float(), []
    for count in (64, 512):
        u = torch.randn(count, 5, 3)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            flow.inverse(u, tile=16)
        sizes.append(_most_held(profiler))
    assert sizes[1] - sizes[0] <= 2 * (512 - 64) * 5 * 3 * 4


def _most_held(profiler: profile) -> int:
    """Return the most bytes that were allocated at once."""
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_kept_decoder_draws_the_samples_of_the_flow(config, random_flow, random_batch):
    flow = random_flow(config)
    _, label = random_batch(config)
    decoder, draw = flow.decoder(2, guidance=Guidance(2.0)), torch.Generator().manual_seed(5)
    found = torch.cat([decoder.sample(label, temperature=0.9, generator=draw) for _ in range(2)])
    wanted = flow.sample(
        label.repeat(2),
        guidance=Guidance(2.0),
        temperature=0.9,
        generator=draw.manual_seed(5),
        tile=2,
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("how", ["hook", "wrapped", "parametrized", "patched"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoding_goes_through_what_wraps_or_hooks_a_layer(config, random_flow, how, dtype):
    flow = random_flow(config).to(dtype)
    layer = flow.blocks[1].layers[0]
    if how == "hook":
        layer.register_forward_hook(lambda _, __, output: output + 1.0)
    elif how == "wrapped":
        layer.mlp_in = LowRank(layer.mlp_in)
    elif how == "patched":
        forward = layer.forward
        layer.forward = lambda h, attend=causal_attention: 1.5 * forward(h, attend)
    else:
        torch.nn.utils.parametrizations.spectral_norm(layer.mlp_out)
        flow.eval()
    z = torch.randn(2, 5, 3, dtype=dtype)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    assert_near(flow.inverse(flow(z).u), z, tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(flow.inverse(flow(z).u), z, 1.0)


class LowRank(torch.nn.Module):
    """As LoRA's layers: the weight is the base's, the output is not."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = (
            torch.nn.Linear(base.in_features, 2, dtype=base.weight.dtype),
            torch.nn.Linear(2, base.out_features, dtype=base.weight.dtype),
        )

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounter
torch._dynamo.config.recompile_limit = 2
torch.amp.is_autocast_available = torch.compiler.disable(torch.amp.is_autocast_available)  # 2.11
from tarflow_prior import Guidance, Sequential, TarFlow, TarFlowConfig
config = TarFlowConfig(num_tokens=9, token_dim=3, width=64, depths=(1,), num_classes=3)
flow = TarFlow(config)
torch.nn.init.normal_(flow.blocks[0].head.weight, std=0.05)
u, label, guidance = torch.randn(2, 9, 3), torch.tensor([0, 2]), Guidance(
    2.0, interval=(0.0, 1.0), attention_temperature=1.3
)
counter, plain = CompileCounter(), torch.compile
torch.compile = lambda f, **options: plain(f, backend=counter, **options)
decoder = flow.decoder(2, guidance=guidance, solver=Sequential(compiled=True))
z = decoder(u, label).z
torch.testing.assert_close(z, flow.inverse(u, label, guidance=guidance), atol=1e-5, rtol=0)
decoder(2 * u, label)
print("frames", counter.frame_count)
for batch in range(3, 6):
    flow.decoder(batch, solver=Sequential(compiled=True)).decode(torch.randn(batch, 9, 3))
print("frames", counter.frame_count)
"""


def test_one_graph_serves_all_positions_and_every_batch_has_its_own():
    # In a process of its own, since torch.compile cannot trace the type checks of this run.
    run = run_script(COMPILED)
    assert run.stdout == "frames 1\nframes 4\n", run.stderr


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_decoder_copied_with_its_flow_decodes_with_the_weights_of_the_copy(
    config, random_flow, random_batch, copied
):
    module = torch.nn.Module()
    module.flow = random_flow(config)
    module.draw = module.flow.decoder(2, guidance=Guidance(2.0), solver=Jacobi(tol=0.5))
    u, label = random_batch(config)
    wanted = module.draw(u, label)
    twin = copied(module)
    with torch.no_grad():
        module.flow.blocks[0].head.bias.add_(1.0)
    decoded = twin.draw(u, label)
    assert torch.equal(decoded.z, wanted.z)
    assert decoded.sweeps == wanted.sweeps
    with torch.no_grad():
        twin.flow.blocks[0].head.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="they have changed"):
        twin.draw(u, label)


@pytest.mark.parametrize("is_rounded", [False, True])
def test_copy_of_a_decoder_keeps_its_precision(config, random_flow, random_batch, is_rounded):
    u = random_batch(config)[0].float()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_rounded):
        decoder = random_flow(config).float().decoder(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=not is_rounded):
        twin = copy.deepcopy(decoder)
    assert torch.equal(twin(u).z, decoder(u).z)


def test_copy_of_a_decoder_is_of_its_class(config, random_flow):
    class Own(Decoder):
        pass

    assert type(copy.deepcopy(Own(random_flow(config).blocks, 2))) is Own


SAMPLED = """
import torch
from tarflow_prior import Guidance, TarFlow, TarFlowConfig
flow = TarFlow(TarFlowConfig(num_tokens=5, token_dim=3, width=64, depths=(1, 1), num_classes=4))
for block in flow.blocks:
    torch.nn.init.normal_(block.head.weight, std=0.1)
u, label, guidance = torch.randn(2, 5, 3), torch.tensor([1, 3]), Guidance(2.0)
kept, graphs = flow.decoder(2, guidance=guidance), []
def backend(graph, _):
    graphs.append(graph.code)
    return graph.forward
for draw in (
    lambda: flow.sample(label, guidance=guidance),
    lambda: flow.sample(label, tile=1),
    lambda: flow.inverse(u, label),
    lambda: flow.decode(u, label).z,
    lambda: kept.sample(label),
    lambda: kept(u, label).z,
    lambda: flow.conditional(label).sample(),
):
    torch.manual_seed(0)
    wanted = draw()
    torch.manual_seed(0)
    print(torch.equal(torch.compile(draw, backend=backend)(), wanted))
print([word for word in ("mkldnn", "randn", "attention") if any(word in code for code in graphs)])
"""


def test_sampling_inside_torch_compile_draws_what_it_draws_outside():
    # Inductor has no kernel for packed products, and random numbers of its own. In a process of
    # its own, since torch.compile cannot trace the type checks of this run.
    run = run_script(SAMPLED)
    assert run.stdout == "True\n" * 7 + "[]\n", run.stderr


def test_no_step_allocates_more_than_another(random_flow):
    flow = random_flow(TarFlowConfig(num_tokens=40, token_dim=3, width=64, depths=(2,)))
    block = flow.decoder(4)._blocks[0]
    block._load(torch.zeros(4, 40, 3, dtype=torch.float64), None)

    def allocated(rank):
        block._step(rank, is_guided=False)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            block._step(rank, is_guided=False)
        return sum(max(0, event.self_cpu_memory_usage) for event in profiled.events())

    with torch.no_grad():
        sizes = [allocated(rank) for rank in (1, 20, 38)]
    past = 38 * 64 * 8 * 4  # what copying the keys of one layer would take
    assert max(sizes) - min(sizes) < past / 4, sizes


def test_non_finite_sample_is_named_and_the_others_kept(config, random_flow, random_batch):
    flow = random_flow(config)
    u, _ = random_batch(config, batch=4)
    sound = flow.inverse(u)
    noise = u.clone()
    noise[2, 1, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"1 of 4 samples .* sample 2 .*the noise") as caught:
        flow.inverse(noise)
    assert caught.value.samples == [2]
    keep = torch.tensor([0, 1, 3])
    assert_near(caught.value.z[keep], sound[keep])


def test_overflow_names_block_token_and_rank(random_flow):
    config = TarFlowConfig(
        num_tokens=6, token_dim=2, width=16, head_dim=8, depths=(1, 1), log_scale_bound=None
    )
    flow = TarFlow(config)
    with torch.no_grad():  # block 0 scales every token but the first by e^100
        flow.blocks[0].head.bias[:2] = 100.0
    message = "block 0, token 1, decoded as number 1.*Lower temperature or guidance"
    with pytest.raises(NonFiniteError, match=message):
        flow.inverse(torch.ones(1, 6, 2))
    flipped = copy.deepcopy(flow)
    with torch.no_grad():
        flipped.blocks[0].head.bias.zero_()
        flipped.blocks[1].head.bias[:2] = 100.0
    with pytest.raises(NonFiniteError, match="block 1, token 4, decoded as number 1"):
        flipped.inverse(torch.ones(1, 6, 2))


def test_non_finite_weight_is_named(config, random_flow, random_batch):
    flow = random_flow(config)
    u, _ = random_batch(config)
    with torch.no_grad():
        flow.blocks[1].layers[0].mlp_out.weight[0, 0] = float("nan")
    message = r"blocks\.1\.layers\.0\.mlp_out\.weight has non-finite entries"
    with pytest.raises(NonFiniteError, match=message):
        flow.inverse(u, solver=Jacobi())


def test_polish_brings_a_bfloat16_draft_nearer(random_flow):
    config = TarFlowConfig(num_tokens=16, token_dim=4, width=64, depths=(2, 2), num_classes=3)
    flow = random_flow(config, head_std=0.02).float()
    with torch.no_grad():
        for block in flow.blocks:
            for layer in block.layers:
                for linear in (layer.attention.qkv_and_gate, layer.mlp_in, layer.mlp_out):
                    linear.weight.mul_(0.5)
    u = torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(0))
    label, guidance = torch.arange(8) % 3, Guidance(1.0)
    exact = flow.inverse(u, label, guidance=guidance)

    def error(polish):
        with torch.autocast("cpu", torch.bfloat16):
            draft = flow.decode(u, label, guidance=guidance, solver=Sequential(polish=polish))
        return (draft.z - exact).square().mean().sqrt().item(), draft.residual.max().item()

    drafts = [error(polish) for polish in (0, 2, 6, 15)]
    assert drafts[0][0] > 1e-4, "the draft must be rounded"
    for worse, better in pairwise(drafts):
        assert better[0] < worse[0]
        assert better[1] < worse[1]
    assert drafts[-1][0] < 1e-5, "k - 1 sweeps are exact"


def test_cuda_graph_without_a_gpu_is_refused(config, random_flow):
    with pytest.raises(ValueError, match="Expected a flow on a CUDA device for cuda_graph=True"):
        random_flow(config).decoder(2, solver=Sequential(cuda_graph=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("guidance", [None, Guidance(2.0)], ids=["unguided", "guided"])
def test_cuda_graph_replays_the_eager_step(config, random_flow, guidance):
    flow = random_flow(config).cuda()
    u = torch.randn(3, 5, 3, dtype=torch.float64, device="cuda")
    label = torch.tensor([0, 3, 2], device="cuda")
    decoder = flow.decoder(3, guidance=guidance, solver=Sequential(cuda_graph=True))
    for noise in (u, 2 * u):
        assert_near(decoder(noise, label).z, flow.inverse(noise, label, guidance=guidance))
