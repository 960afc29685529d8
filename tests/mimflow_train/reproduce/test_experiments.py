"""Every row of every experiment is a run that this code can make."""

import dataclasses
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from mimflow_train.config.overrides import override
from mimflow_train.errors import ConfigError
from mimflow_train.recipes import IMAGENET_CLASSES, paper, tiny
from mimflow_train.reproduce.design import Claim, Experiment, Variant
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.variants import autoencoder_config, planned_runs, variant_config

NAMES = (
    "table1 table2 table3 table4 table5-mask table5-target table5-tokens table5-sigma table8 "
    "table9 table10 fig4 fig5 fig6 bottlenecks guidance"
)
BASES = {"tiny": tiny(), "L": paper("L", IMAGENET_CLASSES, "imagenet")}


def config_of(name, label, base="tiny", seed=0):
    experiment = EXPERIMENTS[name]
    (variant,) = (each for each in experiment.variants if each.label == label)
    return variant_config(BASES[base], experiment, variant, seed)


def test_the_names_are_those_of_the_design():
    assert list(EXPERIMENTS) == NAMES.split()


@pytest.mark.parametrize("scale", BASES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_is_a_valid_configuration(name, scale):
    experiment = EXPERIMENTS[name]
    rows = [each for each in experiment.variants if not each.why_not(scale)]
    configs = [variant_config(BASES[scale], experiment, each, 7) for each in rows]
    assert rows
    assert {config.seed for config in configs} == {7}


def test_the_recipe_is_one_run_for_all_experiments():
    assert config_of("table5-mask", "0.4-0.6") == config_of("table8", "+ masking") == tiny()
    assert config_of("fig5", "MIMFlow") == config_of("fig4", "MIMFlow") == tiny()


def test_ablations_take_fifty_epochs_at_the_papers_scale():
    assert config_of("table5-mask", "none", "L").steps == 50 * 5005
    assert config_of("table3", "without guidance", "L").steps == 90 * 5005


def test_tokens_are_the_papers_share_of_the_patches():
    tokens = [
        config_of("table5-tokens", f"{share} of the patches", "L").model.flow.num_tokens
        for share in ("1/4", "1/2", "3/4")
    ]
    assert tokens == [64, 128, 192]


def test_targets_are_shaped_as_the_recipes_own():
    features = config_of("table5-target", "EfficientNet-Lite0 + HOG").model.features
    assert (features["efflite0"].feature_dim, features["hog"].feature_dim) == (112, 108)
    assert features["hog"].kind == "mlp"


def test_the_two_stage_rows_share_their_autoencoder():
    base = tiny()
    rows = [each for each in EXPERIMENTS["table1"].variants if each.two_stage]
    configs = [variant_config(base, EXPERIMENTS["table1"], each, 0) for each in rows]
    first = [autoencoder_config(config) for config in configs]
    assert len(rows) == 6
    assert all(each == first[0] for each in first)
    assert first[0].loss.nll == 0


def test_a_setting_that_a_row_overrules_changes_neither_of_its_stages():
    experiment = EXPERIMENTS["table1"].only(["softplus removed"])
    base = override(tiny(), ["model.flow.gate=none", "model.flow.scale=softplus"])
    assert planned_runs(base, experiment)[1] != planned_runs(tiny(), experiment)[1]
    base = override(tiny(), ["model.flow.gate=none"])
    assert planned_runs(base, experiment) == planned_runs(tiny(), experiment)


def test_equal_rows_are_planned_once():
    runs = planned_runs(BASES["tiny"], EXPERIMENTS["guidance"])
    assert [run.until for run in runs] == [730]


def test_a_run_that_goes_on_with_the_decoder_is_planned_once():
    runs = planned_runs(BASES["tiny"], EXPERIMENTS["table8"])
    assert [run.until for run in runs] == [730, 620, 620, 730]


@pytest.mark.parametrize(("scale", "until"), [("tiny", [620] * 3), ("L", [450450] * 2)])
def test_a_map_of_latents_trains_no_flow_on_a_fixed_autoencoder(scale, until):
    assert [run.until for run in planned_runs(BASES[scale], EXPERIMENTS["fig4"])] == until


def test_rows_of_another_scale_say_so():
    variant = Variant(label="a", scales="paper")
    assert variant.why_not("tiny") == "needs --scale S to XXL"
    assert variant.why_not("XL") == ""


def test_unknown_target_is_refused_where_it_is_written():
    with pytest.raises(ConfigError, match=r"Expected targets among .*; got dino"):
        Variant(label="a", targets=("dino",))


def test_a_claim_names_rows_that_exist():
    claim = Claim("", "gfid", "a", "c")
    with pytest.raises(AssertionError):
        Experiment(title="", measure="scores", variants=(Variant(label="a"),), claims=(claim,))


def test_a_recipe_without_features_has_no_targets_to_vary():
    base = dataclasses.replace(tiny(), model=dataclasses.replace(tiny().model, features={}))
    variant = Variant(label="a", targets=("hog",), tokens=Fraction(1, 2))
    with pytest.raises(ConfigError, match="a recipe with a feature decoder"):
        variant_config(base, EXPERIMENTS["table9"], variant, 0)


def test_the_experiments_are_known_without_torch():
    code = "import sys, mimflow_train.reproduce.experiments; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_documented_table_of_ones_own_is_listed_with_its_cost(monkeypatch, capsys):
    docs = Path(__file__).parents[3] / "docs" / "reproduce.md"
    (example,) = re.findall(r"```python\n(.*?)```", docs.read_text(), re.DOTALL)
    monkeypatch.setitem(EXPERIMENTS, "bound", None)  # restored afterwards
    monkeypatch.setattr("sys.argv", ["mine.py", "list"])
    with pytest.raises(SystemExit) as ended:
        exec(compile(example, "mine.py", "exec"), {})
    assert ended.value.code == 0
    assert re.search(
        r"^bound +2 +1,240 .*\n +Clip of the log-scale$", capsys.readouterr().out, re.M
    )
