import re
from pathlib import Path

import numpy as np
import pytest

import genmetrics

README = Path(__file__).parents[2] / "packages/genmetrics/README.md"


@pytest.mark.parametrize("name", genmetrics.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(genmetrics, name).__doc__
    assert name in dir(genmetrics)


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fid'"):
        genmetrics.fid  # noqa: B018  # the access is the test


def test_submodules_do_not_hide_functions():
    from genmetrics import evaluate
    from genmetrics.evaluation import evaluate as module

    assert module.evaluate is evaluate is genmetrics.evaluate


@pytest.mark.parametrize("about", ["Extractor.of", "linear_probe("])
def test_examples_on_tensors_run(about, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if about in block)
    assert len(code.splitlines()) <= 10
    exec(code, {})
    *_, value = capsys.readouterr().out.split()
    assert 0 < float(value) <= 1


def test_first_example_of_the_readme_runs(emoji, write_images, tmp_path, monkeypatch):
    write_images(emoji[:6], "samples")
    np.savez(tmp_path / "real.npz", emoji[6:18])
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert names["report"]["fd_efflite0"].details["floor"]["n"] == 6
