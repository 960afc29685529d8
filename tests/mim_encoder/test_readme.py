import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_examples_of_the_readme_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "packages/mim-encoder/README.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["posterior"].mean.shape == names["z"].shape == (8, 16, 16)
    assert names["posterior"].features.shape == (8, 16, 192)
    assert names["visible"].shape == (8, 32, 16)
