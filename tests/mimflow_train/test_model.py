import torch
from tests.mimflow_train.conftest import SMALL

from mimflow_train.config import LossConfig
from mimflow_train.config.overrides import override
from mimflow_train.data.images import to_unit
from mimflow_train.draws import draw_step
from mimflow_train.frozen.teacher import FeatureTarget, cosine_distance
from mimflow_train.model import MIMFlow
from mimflow_train.objective import joint_objective
from mimflow_train.recipes import tiny


def test_every_parameter_gets_a_finite_gradient(data):
    config = override(tiny(("a", "b", "c"), "emoji"), SMALL)
    model = MIMFlow(config.model)
    draws = draw_step(config, 0, slice(0, 8))
    image = to_unit(data.train.stack(range(8)))
    output = model(image, data.train.labels[:8], draws.masked, draws.noise)
    targets = {
        name: FeatureTarget(torch.randn_like(value), cosine_distance)
        for name, value in output.features.items()
    }
    joint_objective(
        output, image, draws.masked, weights=LossConfig(), targets=targets, perceptual=None
    ).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_flow_and_decoder_read_the_same_latents(config, data):
    model = MIMFlow(config.model)
    seen = []
    model.flow.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.decoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    draws = draw_step(config, 0, slice(0, 8))
    model(to_unit(data.train.stack(range(8))), data.train.labels[:8], draws.masked, draws.noise)
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_generate_decodes_what_the_flow_samples(config):
    model = MIMFlow(config.model).eval()
    label = torch.tensor([0, 1, -1])
    image = model.generate(label, generator=torch.Generator().manual_seed(1))
    z = model.flow.sample(label, generator=torch.Generator().manual_seed(1))
    assert torch.equal(image, model.decoder(z))
