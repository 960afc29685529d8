import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from tests.scripts import run_script
from tests.tarflow_prior.strategies import configured, few, shapes
from torch.utils.flop_counter import FlopCounterMode

import tarflow_prior
from tarflow_prior import Guidance, TarFlow, TarFlowConfig


def mimflow_l() -> TarFlowConfig:
    return TarFlowConfig.preset("L", num_tokens=128, token_dim=64, num_classes=1000)


def num_elements(config: TarFlowConfig) -> int:
    with torch.device("meta"):
        flow = TarFlow(config)
    assert not list(flow.buffers())
    return sum(parameter.numel() for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 474_780_672),
        ({"max_positions": 1024}, 482_120_704),
        ({"gate": "none"}, 439_094_272),
        ({"scale": "softplus", "gate": "none"}, 439_094_272),
    ],
    ids=["paper", "paper-1024-positions", "ungated", "starflow-row"],
)
def test_preset_l_has_the_parameters_of_the_paper(changes, count):
    config = replace(mimflow_l(), **changes)
    assert config.num_parameters() == count
    assert num_elements(config) == count


def test_preset_xxl_ungated_has_1_4_billion_parameters():
    config = TarFlowConfig.preset("XXL", num_tokens=256, token_dim=16, num_classes=1000)
    assert 1.39e9 < replace(config, gate="none").num_parameters() < 1.45e9


@given(shapes())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_parameter_count_in_closed_form_matches_the_model(shape):
    config = configured(shape)
    assert config.num_parameters() == num_elements(config)


@given(shapes())
@few
def test_flop_count_in_closed_form_matches_torch_in_both_directions(shape):
    config = configured(shape)
    z = torch.randn(1, config.num_tokens, config.token_dim)
    flow = TarFlow(config).double()  # torch counts no packed products, which float32 has
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        flow(z)
    assert counter.get_total_flops() == config.num_flops()
    with FlopCounterMode(display=False) as counter:
        flow.inverse(z)
    # Decoding attends to no slot that is still empty, so it takes less than the full square.
    steps, square = config.num_tokens - 1, 4 * config.width * sum(config.depths)
    saved = square * (steps**2 - steps * (steps + 1) // 2)
    assert counter.get_total_flops() == config.num_flops() - saved


@given(shapes())
@few
def test_config_survives_json(shape):
    config = configured(shape)
    assert TarFlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_token": 4}, "unknown field 'num_token' .did you mean 'num_tokens'"),
        ({"width": "64"}, "Expected width of another type; got '64'"),
        ({"num_classes": True}, "Expected num_classes of another type; got True"),
        ({"depths": 3}, "Expected depths of another type; got 3"),
        ({"depths": [1, "2", 1]}, r"Expected depths of another type; got \[1, '2', 1\]"),
        ({"depths": [1.5]}, r"Expected depths of another type; got \[1.5\]"),
        ({"depths": [True]}, r"Expected depths of another type; got \[True\]"),
    ],
)
def test_bad_json_field_is_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        TarFlowConfig.from_dict(config.to_dict() | change)


EQUAL = """
import json
import numpy as np
from tarflow_prior import Guidance, TarFlowConfig
fields = dict(num_tokens=6, token_dim=3, width=64, head_dim=32, num_classes=5, mlp_ratio=2)
plain = TarFlowConfig(**fields, depths=(1, 2), max_positions=9, log_scale_bound=2.0)
fields = {name: np.int64(value) for name, value in fields.items()}
other = TarFlowConfig(
    **fields, depths=[*np.array([1, 2])], max_positions=np.int32(9), log_scale_bound=np.float32(2)
)
assert {plain} == {other} == {TarFlowConfig.from_dict(json.loads(json.dumps(other.to_dict())))}
assert repr(other) == repr(plain)
other = Guidance(np.float32(2), interval=[np.float64(0.25), 1])
assert {other} == {Guidance(2.0)}
assert repr(other) == repr(Guidance(2.0))
"""


def test_numbers_of_numpy_and_lists_are_kept_as_plain_numbers_and_tuples():
    # In a process of its own, as a user runs it: the type checker of this run would speak first.
    done = run_script(EQUAL)
    assert done.returncode == 0, done.stderr


def test_missing_json_field_is_named(config):
    values = config.to_dict()
    del values["depths"]
    with pytest.raises(ValueError, match="Expected the fields depths"):
        TarFlowConfig.from_dict(values)


def test_conditioning_the_last_block_alone_saves_the_other_tables(config):
    last = replace(config, conditioning="last")
    assert config.num_parameters() - last.num_parameters() == 2 * 4 * 16
    assert num_elements(last) == last.num_parameters()
    assert [block.classes is None for block in TarFlow(last).blocks] == [True, True, False]


@pytest.mark.parametrize("name", ["tiny", "S", "B", "L", "XL", "XXL"])
def test_presets_grow_with_their_name(name):
    sizes = ["tiny", "S", "B", "L", "XL", "XXL"]
    counts = [
        TarFlowConfig.preset(size, num_tokens=16, token_dim=8).num_parameters() for size in sizes
    ]
    assert counts == sorted(counts)
    assert TarFlowConfig.preset(name, num_tokens=16, token_dim=8, num_classes=3).num_classes == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 1}, "Expected num_tokens of at least 2; got 1"),
        ({"token_dim": 0}, "Expected token_dim of at least 1; got 0"),
        ({"width": 0}, "Expected width of at least 1; got 0"),
        ({"head_dim": 0}, "Expected head_dim of at least 1; got 0"),
        ({"mlp_ratio": 0}, "Expected mlp_ratio of at least 1; got 0"),
        ({"num_classes": -1}, "Expected num_classes of at least 0; got -1"),
        ({"width": 1000}, "Expected width divisible by head_dim=64; got 1000"),
        ({"depths": ()}, r"Expected depths of one or more blocks.*got \(\)"),
        ({"depths": (2, 0)}, r"Expected depths of one or more blocks.*got \(2, 0\)"),
        ({"max_positions": 127}, "Expected max_positions of at least num_tokens=128; got 127"),
        ({"log_scale_bound": 0.0}, "Expected log_scale_bound above 0 and finite; got 0.0"),
        ({"log_scale_bound": float("nan")}, "Expected log_scale_bound above 0 .* got nan"),
    ],
)
def test_bad_field_is_named_with_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(mimflow_l(), **changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("flow(gate='soft')", "gate to be one of elementwise, headwise, none; got 'soft'"),
        ("flow(scale='linear')", "scale to be one of exp, softplus; got 'linear'"),
        ("Guidance(2.0, rule='sum')", "rule to be one of tarflow, starflow; got 'sum'"),
        ("Guidance(2.0, ramp='cosine')", "ramp to be one of linear, constant; got 'cosine'"),
        ("Guidance(2.0, blocks='first')", "blocks to be one of last, all; got 'first'"),
    ],
)
def test_unknown_choice_is_named_with_the_known_ones(call, message):
    # In a process of its own, as a user runs it: the type checker of this run would speak first.
    done = run_script(f"""if True:
        from functools import partial
        from tarflow_prior import Guidance, TarFlowConfig
        flow = partial(TarFlowConfig, num_tokens=4, token_dim=3, width=64, depths=(1,))
        {call}""")
    assert f"ValueError: Expected {message}" in done.stderr


def test_fields_of_a_preset_are_replaced():
    sizes = {"num_tokens": 16, "token_dim": 8}
    config = TarFlowConfig.preset("S", **sizes, gate="none", depths=(1, 2))
    assert config == replace(TarFlowConfig.preset("S", **sizes), gate="none", depths=(1, 2))


def test_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="one of tiny, S, B, L, XL, XXL; got 'H'"):
        TarFlowConfig.preset("H", num_tokens=16, token_dim=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": -1.0}, "Expected guidance scale of at least 0 and finite; got -1.0"),
        ({"scale": float("inf")}, "Expected guidance scale .* got inf"),
        ({"interval": (0.5, 0.25)}, r"0 <= low <= high <= 1; got \(0.5, 0.25\)"),
        ({"interval": (0.5, 1.5)}, r"0 <= low <= high <= 1; got \(0.5, 1.5\)"),
        ({"attention_temperature": 1e-7}, "attention_temperature of at least 1e-6 .* got 1e-07"),
        ({"attention_temperature": float("nan")}, "Expected attention_temperature .* got nan"),
    ],
)
def test_bad_guidance_is_named_with_its_value(fields, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**{"scale": 2.0, **fields})


def test_configs_are_frozen_and_hashable():
    with pytest.raises(FrozenInstanceError):
        mimflow_l().width = 1
    assert {mimflow_l(), mimflow_l()} == {mimflow_l()}
    assert {Guidance(2.0), Guidance(2.0)} == {Guidance(2.0)}


def test_configs_load_without_torch():
    code = (
        "import sys; from tarflow_prior import Guidance, TarFlowConfig; Guidance(2.0); "
        "TarFlowConfig.preset('L', num_tokens=128, token_dim=64).num_parameters(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_loads_and_unknown_names_do_not():
    assert all(getattr(tarflow_prior, name) for name in tarflow_prior.__all__)
    assert set(tarflow_prior.__all__) <= set(dir(tarflow_prior))
    with pytest.raises(AttributeError, match="no attribute 'TarFlw'"):
        _ = tarflow_prior.TarFlw
