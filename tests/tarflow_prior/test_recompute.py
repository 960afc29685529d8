import pytest
import torch
import torch.nn.functional as F
from tests.scripts import run_script
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from tarflow_prior.recompute import GatedLinear, GeluLinear

# torch's forward mode still scripts its own decompositions.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


GELU, GATED = GeluLinear(5, 3).double(), GatedLinear(5, 3).double()


def gelu_linear(x, weight, bias):
    return torch.func.functional_call(GELU, {"weight": weight, "bias": bias}, x)


def gated_linear(x, gate, weight, bias):
    return torch.func.functional_call(GATED, {"weight": weight, "bias": bias}, (x, gate))


def plain_gelu(x, weight, bias):
    return F.linear(F.gelu(x), weight, bias)


def plain_gated(x, gate, weight, bias):
    return F.linear(x * gate.sigmoid(), weight, bias)


@pytest.fixture(params=["gelu", "gated"])
def case(request):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    x, gate, weight, bias = random(2, 4, 5), random(2, 4, 5), random(3, 5), random(3)
    if request.param == "gelu":
        return gelu_linear, plain_gelu, (x, weight, bias)
    return gated_linear, plain_gated, (x, gate, weight, bias)


def test_value_is_that_of_the_two_steps(case):
    ours, plain, inputs = case
    assert torch.equal(ours(*inputs), plain(*inputs))


def test_gradients_of_both_orders_and_forward_mode_are_right(case):
    ours, _, inputs = case
    assert gradcheck(ours, inputs, check_forward_ad=True)
    assert gradgradcheck(ours, inputs)


def test_frozen_weights_get_no_gradient(case):
    ours, plain, (*inputs, weight, bias) = case
    frozen = weight.detach(), bias.detach()
    for function in (ours, plain):
        gradients = torch.autograd.grad(function(*inputs, *frozen).sin().sum(), inputs)
        if function is ours:
            expected = gradients
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=0)


def test_torch_func_transforms_pass_through(case):
    ours, plain, inputs = case
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        every = tuple(range(len(inputs)))
        actual = transform(lambda *x: ours(*x).sin().sum(), every)(*inputs)
        wanted = transform(lambda *x: plain(*x).sin().sum(), every)(*inputs)
        torch.testing.assert_close(actual, wanted, atol=1e-10, rtol=0)


def kept_bytes(function, inputs):
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = function(*inputs)
    del output
    return sum(storages.values())


def test_the_activation_is_not_kept(case):
    ours, plain, inputs = case
    activation = inputs[0].nbytes
    assert kept_bytes(ours, inputs) == sum(each.nbytes for each in inputs[:-1])
    assert kept_bytes(plain, inputs) >= kept_bytes(ours, inputs) + activation


def test_flow_is_differentiable_forward(config, random_flow, random_batch):
    flow = random_flow(config)
    z, label = random_batch(config)
    tangent = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(3))
    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        moved = forward_ad.unpack_dual(flow(forward_ad.make_dual(z, tangent), label).u).tangent
    eps = 1e-6
    with torch.no_grad():
        ahead, behind = flow(z + eps * tangent, label).u, flow(z - eps * tangent, label).u
    torch.testing.assert_close(moved, (ahead - behind) / (2 * eps), atol=1e-5, rtol=1e-5)


COMPILED = """
import copy, torch
from tarflow_prior import TarFlow, TarFlowConfig, nll_per_dim
torch.amp.is_autocast_available = torch.compiler.disable(torch.amp.is_autocast_available)  # 2.11
torch.manual_seed(0)
flow = TarFlow(TarFlowConfig(num_tokens=6, token_dim=3, width=64, depths=(1, 1), num_classes=3))
for block in flow.blocks:
    torch.nn.init.normal_(block.head.weight, std=0.05)
z, label, twin = torch.randn(4, 6, 3), torch.tensor([0, 2, -1, 1]), copy.deepcopy(flow)
compiled = torch.compile(flow, fullgraph=True, backend="aot_eager")
for model in (flow, compiled):
    nll_per_dim(model(z, label)).mean().backward()
    if model is flow:
        eager = {name: p.grad.clone() for name, p in flow.named_parameters()}
        flow.zero_grad()
worst = max((p.grad - eager[name]).abs().max().item() for name, p in flow.named_parameters())
with torch.autocast("cpu", torch.bfloat16):
    nll_per_dim(compiled(z, label)).mean().backward()
print(worst < 1e-6, max(gradient.abs().max().item() for gradient in eager.values()) > 1e-2)
"""


def test_training_step_compiles_into_one_graph():
    # In a process of its own, since torch.compile cannot trace the type checks of this run.
    run = run_script(COMPILED)
    assert run.stdout == "True True\n", run.stderr[-2000:]
