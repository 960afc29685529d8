import re
from pathlib import Path

from tests.tarflow_prior.published import save_readme_weights

from tarflow_prior import TarFlowConfig

README = Path(__file__).parents[2] / "packages/tarflow-prior/README.md"


def test_readme_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(examples) == 5
    names = {}
    save_readme_weights(tmp_path)
    for example in examples:
        exec(example, names)
    assert names["residual"].max() < 1e-2
    assert names["samples"].shape == names["z"].shape
    assert names["log_prob"].shape == (4,)
    assert names["image"].shape == (4, 3, 64, 64)


def test_readme_table_holds_the_presets():
    rows = re.findall(r"\| `(\w+)` \| (\d+) \| ([\d ]+) \| ([\d.]+) M \|", README.read_text())
    assert len(rows) == 6
    for name, width, depths, millions in rows:
        config = TarFlowConfig.preset(name, num_tokens=128, token_dim=64, num_classes=1000)
        assert config.width == int(width)
        assert config.depths == tuple(map(int, depths.split()))
        assert f"{config.num_parameters() / 1e6:.1f}" == millions
