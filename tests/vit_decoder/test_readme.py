import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_first_example_of_the_readme_runs():
    text = (ROOT / "packages/vit-decoder/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert names["image"].shape == (8, 3, 32, 32)
    assert names["wide"].shape == (8, 3, 32, 64)
    assert names["features"].shape == (8, 64, 112)
