import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def test_examples_of_the_readme_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "packages/vit-decoder/README.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["image"].shape == (8, 3, 32, 32)
    assert names["wide"].shape == (8, 3, 32, 64)
    assert torch.equal(names["decoder"](names["z"]), names["image"])
    assert names["features"].shape == (8, 64, 112)
