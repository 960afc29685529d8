import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_first_example_of_the_readme_runs():
    text = (ROOT / "packages/mim-encoder/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert names["posterior"].mean.shape == names["z"].shape == (8, 16, 16)
    assert names["posterior"].features.shape == (8, 16, 192)
