import copy
import io
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tests.replicas import replica_of
from tests.scripts import run_script
from tests.tarflow_prior.strategies import configured, few, shapes
from torch.autograd.functional import jacobian
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tarflow_prior import (
    FlowOutput,
    Guidance,
    NonFiniteError,
    TarFlow,
    TarFlowConfig,
    nll_per_dim,
)
from tarflow_prior.checks import accepted_labels


def assert_near(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def naive_inverse(flow, u, label):
    """Solve each block for one token at a time, from parallel passes alone.

    Given the tokens before it, the output at a token is affine in the token itself, so the
    outputs at 0 and at 1 determine it.
    """
    for block in reversed(flow.blocks):
        ranks = range(u.shape[1])
        tokens = torch.zeros_like(u)
        for t in reversed(ranks) if block.flipped else ranks:
            at_0 = block(tokens, label).u[:, t]
            tokens[:, t] = 1
            at_1 = block(tokens, label).u[:, t]
            tokens[:, t] = (u[:, t] - at_0) / (at_1 - at_0)
        u = tokens
    return u


@given(shapes())
@few
def test_inverse_undoes_forward_and_forward_inverse(random_flow, random_batch, shape):
    config = configured(shape)
    flow = random_flow(config)
    z, label = random_batch(config)
    assert_near(flow.inverse(flow(z, label).u, label), z)
    assert_near(flow(flow.inverse(z, label), label).u, z)


@given(shapes(max_tokens=5))
@few
def test_log_det_matches_autograd_jacobian(random_flow, random_batch, shape):
    config = configured(shape)
    flow = random_flow(config)
    z, label = random_batch(config)
    num_dims = config.num_tokens * config.token_dim
    for row in range(len(z)):
        row_label = None if label is None else label[row : row + 1]
        matrix = jacobian(lambda x, y=row_label: flow(x[None], y)[0][0], z[row])
        sign, log_det = torch.linalg.slogdet(matrix.reshape(num_dims, num_dims))
        assert sign == 1
        assert_near(flow(z, label).log_det[row].detach(), log_det, atol=1e-8)


@given(shapes())
@few
def test_cached_inverse_matches_naive_inverse(random_flow, random_batch, shape):
    config = configured(shape)
    flow = random_flow(config)
    u, label = random_batch(config)
    with torch.no_grad():
        assert_near(flow.inverse(u, label), naive_inverse(flow, u, label))


@given(shapes(), st.sampled_from([torch.float32, torch.float64]))
@few
def test_flow_at_initialisation_is_the_identity_bit_for_bit(random_batch, shape, dtype):
    config = configured(shape)
    flow = TarFlow(config).to(dtype)
    z, label = random_batch(config)
    z = z.to(dtype)
    output = flow(z, label)
    assert torch.equal(output.u, z)
    assert (output.log_det == 0).all()
    assert torch.equal(flow.inverse(z, label), z)


@given(shapes())
@few
def test_every_parameter_gets_a_gradient(random_flow, random_batch, shape):
    config = configured(shape)
    for flow, must_move in [(TarFlow(config).double(), False), (random_flow(config), True)]:
        z, label = random_batch(config)
        nll_per_dim(flow(z, label)).mean().backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # With the past of one token alone, attention has nothing to choose from, so queries
            # and keys may rest; as a whole the fused weight still moves.
            assert parameter.grad.any() or not must_move, name


@given(shapes())
@few
def test_states_are_the_flow_block_by_block(random_flow, random_batch, shape):
    config = configured(shape)
    flow = random_flow(config)
    z, label = random_batch(config)
    states, output = list(flow.iter_states(z, label)), flow(z, label)
    assert len(states) == len(config.depths)
    assert torch.equal(states[-1].u, output.u)
    assert_near(sum(state.log_det for state in states), output.log_det)
    assert torch.equal(states[0].u, flow.blocks[0](z, label).u)


def test_null_label_is_none_and_minus_one_in_both_directions(config, random_flow, random_batch):
    flow = random_flow(config)
    z, _ = random_batch(config, batch=3)
    null = torch.tensor([-1, -1, -1])
    assert_near(flow(z, null).u, flow(z).u)
    assert_near(flow(z, null).log_det, flow(z).log_det)
    assert_near(flow.inverse(z, null), flow.inverse(z))


def test_null_label_mixes_with_classes_in_one_batch(config, random_flow, random_batch):
    flow = random_flow(config)
    z, _ = random_batch(config, batch=3)
    label = torch.tensor([2, -1, 0])
    for call in (lambda *inputs: flow(*inputs).u, flow.inverse):
        mixed = call(z, label)
        assert_near(mixed[1], call(z)[1])
        assert_near(mixed[:1], call(z[:1], label[:1]))
        assert (mixed[0] - call(z)[0]).abs().max() > 1e-3, "classes must matter"


def test_null_class_is_the_mean_of_the_class_table(config, random_flow, random_batch):
    flow = random_flow(config)
    z, _ = random_batch(config)
    u = flow(z).u
    with torch.no_grad():
        for block in flow.blocks:
            block.classes.copy_(block.classes.mean(0, keepdim=True).expand_as(block.classes))
    assert_near(flow(z, torch.tensor([0, 3])).u, u)


def test_permuting_the_batch_permutes_the_outputs(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config, batch=4)
    order = torch.tensor([2, 0, 3, 1])
    assert_near(flow(z[order], label[order]).u, flow(z, label).u[order])
    assert_near(flow.inverse(z[order], label[order]), flow.inverse(z, label)[order])


def test_empty_batch_passes(config, random_flow):
    flow = random_flow(config)
    z, label = torch.zeros(0, 5, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    assert flow(z, label).log_det.shape == (0,)
    assert flow.inverse(z, label, guidance=Guidance(2.0)).shape == (0, 5, 3)
    assert flow.log_prob(z, label).shape == flow.bits_per_dim(z, label).shape == (0,)
    assert flow.sample(0).shape == flow.score(z, label).shape == (0, 5, 3)
    assert flow.sample(0).dtype == torch.float64


@pytest.mark.parametrize("label", [[0, 4], [-2, 0]], ids=["too-large", "too-small"])
def test_label_out_of_range_is_named(config, random_flow, random_batch, label):
    flow = random_flow(config)
    z, _ = random_batch(config)
    wrong = max(label, key=abs)
    message = f"Expected labels in 0..3, or -1 for the null class; got {wrong}"
    for call in (flow, flow.inverse, flow.log_prob):
        with pytest.raises(ValueError, match=message):
            call(z, torch.tensor(label))
    with pytest.raises(ValueError, match=message):
        flow.sample(torch.tensor(label))


def test_flow_without_classes_refuses_labels(config, random_flow, random_batch):
    flow = random_flow(replace(config, num_classes=0))
    z, _ = random_batch(config)
    for call in (flow, flow.inverse):
        with pytest.raises(ValueError, match="Expected label None for a flow without classes"):
            call(z, torch.tensor([0, -1]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_labels_of_every_integer_dtype_are_classes(config, random_flow, random_batch, dtype):
    flow = random_flow(config)
    z, _ = random_batch(config)
    wide = torch.tensor([0, 3])
    assert torch.equal(flow(z, wide.to(dtype)).u, flow(z, wide).u)
    assert torch.equal(flow.inverse(z, wide.to(dtype)), flow.inverse(z, wide))


def test_negative_count_is_refused(config):
    with pytest.raises(ValueError, match="Expected a count of at least 0; got -3"):
        TarFlow(config).sample(-3)


def test_tokens_of_another_shape_are_refused(config, random_flow, random_batch):
    flow = random_flow(config)
    z, _ = random_batch(config)
    for call in (flow, flow.inverse):
        with pytest.raises(ValueError, match=r"shape \(b, 5, 3\); got \(2, 4, 3\)"):
            call(z[:, :4])


def test_half_precision_weights_are_refused(config):
    with pytest.raises(ValueError, match=r"float32 or float64 weights; got torch.bfloat16"):
        TarFlow(config).bfloat16()(torch.zeros(1, 5, 3))


def test_log_prob_is_the_change_of_variables(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    u, log_det = flow(z, label)
    base = torch.distributions.Normal(torch.zeros_like(z), 1.0)
    log_prob = base.log_prob(u).sum((1, 2)) + log_det
    assert_near(flow.log_prob(z, label), log_prob)
    assert_near(flow.bits_per_dim(z, label), -log_prob / (15 * math.log(2)))
    loss = nll_per_dim(FlowOutput(u, log_det))
    assert_near(loss, u.square().mean((1, 2)) / 2 - log_det / 15)
    assert_near(-log_prob, 15 * (loss + 0.918938533204672742))


@pytest.mark.parametrize("scale", ["exp", "softplus"])
def test_density_integrates_to_one(random_flow, scale):
    config = TarFlowConfig(
        num_tokens=2,
        token_dim=1,
        width=8,
        head_dim=4,
        depths=(1, 2),
        num_classes=3,
        scale=scale,
        log_scale_bound=1.0,
    )
    flow = random_flow(config)
    axis = torch.linspace(-25, 25, 301, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[..., None]
    cell = (axis[1] - axis[0]) ** 2
    with torch.no_grad():
        for label in (None, torch.full((len(z),), 1)):
            log_prob = flow.log_prob(z, label)
            assert abs((log_prob.exp().sum() * cell).item() - 1) < 1e-3
    assert (log_prob - torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2))).abs().max() > 1


def test_sample_at_initialisation_is_tempered_noise(config):
    flow = TarFlow(config).double()
    generator = torch.Generator().manual_seed(7)
    noise = torch.stack(
        [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
    )
    seeded = torch.Generator().manual_seed(7)
    assert torch.equal(flow.sample(3, temperature=0.5, generator=seeded), 0.5 * noise)


def test_sample_is_the_inverse_of_its_noise(config, random_flow):
    flow = random_flow(config)
    label, guidance = torch.tensor([1, -1, 3]), Guidance(2.0)
    generator = torch.Generator().manual_seed(7)
    u = torch.stack([torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3)])
    for seed_label, z in [(label, flow.inverse(u, label, guidance=guidance)), (3, flow.inverse(u))]:
        seeded = torch.Generator().manual_seed(7)
        assert torch.equal(flow.sample(seed_label, guidance=guidance, generator=seeded), z)


def test_temperature_0_is_the_image_of_the_origin(config, random_flow):
    flow = random_flow(config)
    origin = torch.zeros(2, 5, 3, dtype=torch.float64)
    assert torch.equal(flow.sample(2, temperature=0.0), flow.inverse(origin))


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_negative_temperature_is_refused(config, temperature):
    with pytest.raises(ValueError, match="Expected temperature of at least 0 and finite; got"):
        TarFlow(config).sample(1, temperature=temperature)


def test_generator_leaves_the_global_state_alone(config, random_flow):
    flow = random_flow(config)
    before = torch.get_rng_state()
    flow.sample(2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_calls_change_neither_inputs_nor_the_model(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    kept, kept_label = z.clone(), label.clone()
    attributes = [copy.deepcopy(vars(module)) for module in flow.modules()]
    weights = copy.deepcopy(flow.state_dict())
    first = flow.inverse(z, label, guidance=Guidance(2.0))
    flow(z, label)
    assert torch.equal(z, kept)
    assert torch.equal(label, kept_label)
    assert all(torch.equal(value, weights[name]) for name, value in flow.state_dict().items())
    assert [set(vars(module)) for module in flow.modules()] == [set(kept) for kept in attributes]
    assert torch.equal(flow.inverse(z, label, guidance=Guidance(2.0)), first)
    assert torch.equal(flow.eval()(z, label).u, flow.train()(z, label).u)


def test_inverse_accepts_noise_that_requires_gradients(config, random_flow, random_batch):
    u, label = random_batch(config)
    z = random_flow(config).inverse(u.requires_grad_(), label)
    assert not z.requires_grad


def test_saved_flow_is_the_same_after_loading(config, random_flow, random_batch):
    flow, file = random_flow(config), io.BytesIO()
    torch.save(flow.state_dict(), file)
    file.seek(0)
    loaded = TarFlow(config).double()
    loaded.load_state_dict(torch.load(file))
    z, label = random_batch(config)
    assert torch.equal(loaded(z, label).u, flow(z, label).u)
    assert set(flow.state_dict()) == {name for name, _ in flow.named_parameters()}


@pytest.mark.parametrize("scale", ["exp", "softplus"])
def test_affine_stays_float32_under_bfloat16_autocast(config, random_flow, random_batch, scale):
    flow = random_flow(replace(config, scale=scale)).float()
    z, label = random_batch(config)
    seen = {
        "qkv_and_gate": set(),
        "mlp_out": set(),
        "head": set(),
        "project_in": set(),
        "norm": set(),
    }
    for name, module in flow.named_modules():
        for kind in seen:
            if name.endswith(kind):
                module.register_forward_hook(
                    lambda _, inputs, output, kind=kind: seen[kind].add(
                        (inputs[0].dtype, output.dtype)
                    )
                )
    with torch.autocast("cpu", torch.bfloat16):
        output = flow(z.bfloat16(), label)
        back = flow.inverse(output.u, label)
    exact, rounded = torch.float32, torch.bfloat16
    assert (output.u.dtype, output.log_det.dtype, back.dtype) == (exact, exact, exact)
    assert seen["head"] == seen["project_in"] == seen["norm"] == {(exact, exact)}
    assert {dtype for _, dtype in seen["qkv_and_gate"] | seen["mlp_out"]} == {rounded}
    assert not torch.equal(output.log_det, output.log_det.bfloat16().float())
    assert output.u.ne(output.u.bfloat16()).float().mean() > 0.5, "u must not be rounded"


def test_bfloat16_autocast_stays_near_float32(config, random_flow, random_batch):
    flow = random_flow(config).float()
    z, label = random_batch(config, batch=8)
    z = z.float()
    exact = flow(z, label)
    with torch.autocast("cpu", torch.bfloat16):
        output = flow(z, label)
        back = flow.inverse(output.u, label)
    assert ((output.log_det - exact.log_det) / 15).abs().max() < 5e-3
    assert (back - z).square().mean().sqrt() < 3e-2


def test_bfloat16_likelihoods_are_good_to_5e_4_nats_per_dimension():
    torch.manual_seed(0)
    flow = TarFlow(TarFlowConfig(num_tokens=16, token_dim=4, width=128, depths=(2, 2, 2)))
    for block in flow.blocks:  # deviations like those of a trained flow
        torch.nn.init.normal_(block.head.weight, std=0.03)
    z = torch.randn(64, 16, 4)
    with torch.no_grad():
        exact = flow(z)
        with torch.autocast("cpu", torch.bfloat16):
            output = flow(z)
            back = flow.inverse(output.u)
    error = (output.log_det - exact.log_det).abs().max() / 64
    assert 1e-6 < error < 5e-4
    assert (back - z).square().mean().sqrt() < 1e-2
    assert (flow.blocks[0](z).u - z).abs().mean() > 0.1, "the flow must do something"


def test_float64_ignores_autocast(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    with torch.autocast("cpu", torch.bfloat16):
        output = flow(z, label)
        back = flow.inverse(output.u, label)
    assert torch.equal(output.u, flow(z, label).u)
    assert_near(back, z)


def test_bounded_log_scale_keeps_samples_finite(random_flow):
    config = TarFlowConfig(num_tokens=32, token_dim=4, width=32, head_dim=8, depths=(2, 2, 2))

    def samples(bound):
        flow = random_flow(replace(config, log_scale_bound=bound), head_std=0.5).float()
        generator = torch.Generator().manual_seed(0)
        return flow.sample(16, temperature=3.0, generator=generator)

    assert samples(4.0).isfinite().all()
    with pytest.raises(NonFiniteError):
        samples(None)


def test_forward_runs_on_the_meta_device(config):
    with torch.device("meta"):
        output = TarFlow(config)(torch.empty(2, 5, 3))
    assert (output.u.shape, output.log_det.shape) == ((2, 5, 3), (2,))


def _log_prob_of_one(flow):
    return lambda z, label: flow.log_prob(z[None], label[None])[0]


def test_vmap_goes_over_sequences_and_labels(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config, batch=3)
    log_prob = _log_prob_of_one(flow)
    with sdpa_kernel(SDPBackend.MATH):  # torch warns where it has no batched form of another
        assert_near(torch.func.vmap(log_prob)(z, label), flow.log_prob(z, label))
        scores = torch.func.vmap(torch.func.grad(log_prob))(z, label)
        assert_near(scores, flow.score(z, label))
        with pytest.raises(IndexError):
            torch.func.vmap(log_prob)(z, label + 4)


@pytest.mark.parametrize("outside", [4, -2])
def test_label_out_of_range_is_refused_in_a_functional_gradient(
    config, random_flow, random_batch, outside
):
    flow = random_flow(config)
    z, _ = random_batch(config)
    with pytest.raises(ValueError, match=f"Expected labels in .* got {outside}"):
        torch.func.grad(_log_prob_of_one(flow))(z[0], torch.tensor(outside))


WRONG = """
import torch
from tarflow_prior import Guidance, TarFlow, TarFlowConfig
config = TarFlowConfig(num_tokens=5, token_dim=3, width=16, head_dim=8, depths=(1,), num_classes=4)
flow, z = TarFlow(config), torch.zeros(2, 5, 3)
for call in (
    lambda: flow(z, torch.zeros(2)),
    lambda: flow.inverse(z, torch.zeros(2)),
    lambda: flow(z, torch.zeros(3, dtype=torch.long)),
    lambda: flow(z.long()),
    lambda: flow(z[0]),
    lambda: flow(torch.zeros(2, 6, 3)),
    lambda: flow.sample(torch.tensor(2)),
    lambda: Guidance(2.0, interval=(0.0, 0.5, 1.0)),
    lambda: flow.decoder(1).in_tiles(z, torch.zeros(1, dtype=torch.long)),
    lambda: flow.decoder(1).in_tiles(z, torch.zeros(3, dtype=torch.long)),
):
    try:
        call()
    except ValueError as error:
        print(str(error).split(". ")[0])
"""


def test_wrong_shapes_and_dtypes_are_named_without_a_type_checker():
    run = run_script(WRONG)
    assert run.stdout.splitlines() == [
        "Expected integer labels; got torch.float32",
        "Expected integer labels; got torch.float32",
        "Expected one label for each of 2 samples; got shape (3,)",
        "Expected tokens of a floating dtype; got torch.int64",
        "Expected tokens of shape (b, 5, 3); got (5, 3)",
        "Expected tokens of shape (b, 5, 3); got (2, 6, 3)",
        "Expected one label for each of 1 samples; got shape ()",
        "Expected guidance interval (low, high); got (0.0, 0.5, 1.0)",
        "Expected one label for each of 2 samples; got shape (1,)",
        "Expected one label for each of 2 samples; got shape (3,)",
    ], run.stderr


def test_lone_label_is_told_how_to_be_a_batch(config):
    with pytest.raises(ValueError, match=r"got shape \(\)\. Write label\.expand\(2\)\."):
        accepted_labels(torch.tensor(3), config, 2)


def test_transposed_tokens_are_told_from_wrong_ones():
    flow = TarFlow(TarFlowConfig(num_tokens=5, token_dim=3, width=16, head_dim=8, depths=(1,)))
    with pytest.raises(ValueError, match=r"got \(2, 3, 5\)\. Transpose the tokens: z\.mT\."):
        flow(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="All sequences have the num_tokens"):
        flow(torch.zeros(2, 4, 3))


WRONG_KIND = """
import torch
from tarflow_prior import (
    Auto, GaussSeidel, Guidance, Jacobi, Sequential, TarFlow, TarFlowConfig, nll_per_dim
)
shape = dict(num_tokens=5, token_dim=3, width=16, head_dim=8, depths=(1,), num_classes=4)
flow, z, label = TarFlow(TarFlowConfig(**shape)), torch.zeros(2, 5, 3), torch.tensor([1, 2])
for call in (
    lambda: flow(z.numpy()),
    lambda: flow(z, [1, 2]),
    lambda: flow.inverse(z, label.numpy()),
    lambda: flow.conditional(3),
    lambda: flow.score(z, [1, 2]),
    lambda: flow.classify(z, log_prior=[0.0] * 4),
    lambda: flow.sample([1, 2]),
    lambda: flow.sample(2.0),
    lambda: flow.sample(2, tile=2.0),
    lambda: flow.sample(label, guidance=2.0),
    lambda: flow.sample(label, solver=Jacobi),
    lambda: flow.sample(label, generator=5),
    lambda: flow.sample(label, generator=0),
    lambda: flow.sample(label, temperature="1"),
    lambda: flow.denoise(z, label, sigma="x"),
    lambda: nll_per_dim(z),
    lambda: TarFlow("tiny"),
    lambda: TarFlow(shape),
    lambda: flow.decode(z, solver="jacobi"),
    lambda: flow.decoder(2.0),
    lambda: flow.decoder(2, guidance=2.0),
    lambda: flow.decoder(2).in_tiles(z, [1, 2]),
    lambda: flow.decoder(2).in_tiles([0.0] * 2),
    lambda: Sequential(polish="1"),
    lambda: Sequential(polish=1.5),
    lambda: Sequential(compiled="no"),
    lambda: Sequential(cuda_graph=1),
    lambda: Jacobi(tol="0"),
    lambda: Jacobi(max_iterations=2.5),
    lambda: GaussSeidel(segments=2.5),
    lambda: GaussSeidel(max_iterations="3"),
    lambda: Auto(tol=None),
    lambda: Guidance("2"),
    lambda: Guidance(2.0, interval=0.5),
    lambda: Guidance(2.0, interval=("0", "1")),
    lambda: TarFlowConfig(**shape | {"num_tokens": 5.0}),
    lambda: TarFlowConfig(**shape | {"depths": 1}),
    lambda: TarFlowConfig(**shape | {"depths": (1.0,)}),
    lambda: TarFlowConfig(**shape | {"max_positions": "9"}),
    lambda: TarFlowConfig(**shape | {"log_scale_bound": "4"}),
):
    try:
        call()
    except TypeError as error:
        print(error)
"""


def test_arguments_of_the_wrong_kind_are_named_without_a_type_checker():
    run = run_script(WRONG_KIND)
    assert [line.removeprefix("Expected ").split(". ")[0] for line in run.stdout.splitlines()] == [
        "tokens to be a torch.Tensor; got ndarray",
        "label to be a torch.Tensor; got list",
        "label to be a torch.Tensor; got ndarray",
        "label to be a torch.Tensor; got int 3",
        "label to be a torch.Tensor; got list",
        "log_prior to be a torch.Tensor; got list",
        "label_or_count to be a tensor of labels or a number of samples; got list",
        "label_or_count to be a tensor of labels or a number of samples; got float 2.0",
        "tile to be a whole number or None; got float 2.0",
        "guidance to be a Guidance or None; got float 2.0",
        "solver to be a solver or None; got type",
        "generator to be a torch.Generator or None; got int 5",
        "generator to be a torch.Generator or None; got int 0",
        "temperature to be a number; got str '1'",
        "sigma to be a number; got str 'x'",
        "output to be a FlowOutput; got Tensor",
        "config to be a TarFlowConfig; got str 'tiny'",
        "config to be a TarFlowConfig; got dict",
        "solver to be a solver or None; got str 'jacobi'",
        "num_samples to be a whole number; got float 2.0",
        "guidance to be a Guidance or None; got float 2.0",
        "label to be a torch.Tensor; got list",
        "tokens to be a torch.Tensor; got list",
        "polish to be a whole number; got str '1'",
        "polish to be a whole number; got float 1.5",
        "compiled to be True or False; got str 'no'",
        "cuda_graph to be True or False; got int 1",
        "tol to be a number; got str '0'",
        "max_iterations to be a whole number or None; got float 2.5",
        "segments to be a whole number; got float 2.5",
        "max_iterations to be a whole number or None; got str '3'",
        "tol to be a number; got NoneType",
        "scale to be a number; got str '2'",
        "interval to be a pair of numbers; got float 0.5",
        "interval to be two numbers; got str '0'",
        "num_tokens to be a whole number; got float 5.0",
        "depths to be a tuple; got int 1",
        "depths to be whole numbers; got float 1.0",
        "max_positions to be a whole number or None; got str '9'",
        "log_scale_bound to be a number or None; got str '4'",
    ], run.stderr


def test_replica_of_data_parallel_computes_what_the_flow_does(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    assert_near(replica_of(flow)(z, label).u, flow(z, label).u, 1e-12)


EXPORTED = """
import torch
from tarflow_prior import TarFlow, TarFlowConfig
flow = TarFlow(TarFlowConfig(num_tokens=5, token_dim=3, width=64, depths=(1, 2), num_classes=4))
for block in flow.blocks:
    torch.nn.init.normal_(block.head.weight, std=0.1)
batch = torch.export.Dim("batch", min=2)
example = torch.randn(4, 5, 3), torch.tensor([3, -1, 0, 2])
exported = torch.export.export(
    flow, example, dynamic_shapes={"z": {0: batch}, "label": {0: batch}}
).module()
z, label = torch.randn(7, 5, 3), torch.tensor([0, 1, 2, 3, -1, 0, 1])
torch.testing.assert_close(exported(z, label).u, flow(z, label).u)
"""


def test_exported_with_labels_takes_other_batches():
    """In a process without the checks of shapes, which take only plain whole numbers."""
    done = run_script(EXPORTED)
    assert done.returncode == 0, done.stderr[-2000:]


def test_weights_made_on_the_meta_device_and_reset_are_a_fresh_flow(config):
    with torch.device("meta"):
        flow = TarFlow(config)
    flow = flow.to_empty(device="cpu")
    with torch.no_grad():
        for weight in flow.parameters():
            weight.fill_(1e9)
    torch.manual_seed(3)
    for module in flow.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    z = torch.randn(2, 5, 3)
    assert torch.equal(flow(z).u, z)
    assert max(weight.abs().max() for weight in flow.parameters()) < 2
    assert flow.blocks[0].positions.std() < 0.02


def test_block_whose_weights_were_cast_for_the_pass_is_refused(config, random_flow, random_batch):
    """As FSDP's MixedPrecisionPolicy casts them, behind the back of the flow's own check."""
    flow = random_flow(config).float()
    z, label = random_batch(config)
    for block in flow.blocks:
        block.register_forward_pre_hook(lambda module, _: module.bfloat16() and None)
    with pytest.raises(
        ValueError, match=r"Expected float32 or float64 weights; got torch.bfloat16"
    ):
        flow(z, label)


def test_sharded_weights_are_refused_where_whole_ones_are_needed(config, random_flow, tmp_path):
    flow = random_flow(config)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        head = flow.blocks[1].head
        head.weight = torch.nn.Parameter(distribute_tensor(head.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(RuntimeError, match=r"got head.weight in shards. Call unshard\(\)"):
            flow.sample(2)
        with pytest.raises(RuntimeError, match=r"got blocks.1.head.weight in shards. Gather them"):
            flow.save_pretrained(tmp_path / "flow")
    finally:
        dist.destroy_process_group()
    assert not (tmp_path / "flow").exists()


SAVED = """
import torch
from tarflow_prior import TarFlow, TarFlowConfig
flow = TarFlow(TarFlowConfig(num_tokens=6, token_dim=3, width=64, depths=(1, 1), num_classes=3))
for block in flow.blocks:
    torch.nn.init.normal_(block.head.weight, std=0.05)
given = torch.randn(5, 6, 3), torch.tensor([0, 2, -1, 1, 0])
batches = [{0: torch.export.Dim("b")}] * 2
two = tuple(each[:2] for each in given)
program = torch.export.export(flow, two, dynamic_shapes=tuple(batches))
torch.export.save(program, "flow.pt2")
torch.save([given, *flow(*given)], "wanted.pt")
"""
LOADED = """
import torch
from tarflow_prior import FlowOutput
given, *wanted = torch.load("wanted.pt")
exported = torch.export.load("flow.pt2").module()
print([torch.equal(*pair) for pair in zip(exported(*given), wanted)])
"""


def test_a_flow_is_exported_for_any_number_of_sequences(tmp_path):
    run = run_script(SAVED, tmp_path)  # torch.export cannot trace type checks
    assert run.returncode == 0, run.stderr[-2000:]
    script = [sys.executable, "-c", LOADED]  # where nothing of the package is loaded yet
    loaded = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert loaded.stdout == "[True, True]\n", loaded.stderr[-2000:]
