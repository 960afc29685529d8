"""Each wheel installs into an empty environment with what it declares, and its README runs."""

import re
import subprocess
from pathlib import Path

import pytest
from tests.tarflow_prior.published import save_readme_weights

ROOT = Path(__file__).parents[2]
NAMES = {
    "genmetrics": "frechet_distance GaussianStats",
    "mim-encoder": "MaskedEncoder random_mask",
    "tarflow-prior": "TarFlow Guidance",
    "vit-decoder": "PixelDecoder FeatureDecoder",
    "mimflow-train": "model",
}
# Those of the others need images.
README_RUNS = ("mim-encoder", "tarflow-prior", "vit-decoder")
pytestmark = pytest.mark.slow


def uv(*arguments: str) -> str:
    done = subprocess.run(["uv", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    uv("build", "--all-packages", "--wheel", "--out-dir", str(folder))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_wheel_works_alone(name, wheels, tmp_path):
    environment, module = tmp_path / "venv", name.replace("-", "_")
    uv("venv", str(environment))
    python = environment / "bin" / "python"
    (wheel,) = wheels.glob(f"{module}-*.whl")
    # The lock's versions, so that no newer release decides this test, and the cache is enough.
    pins = tmp_path / "pins.txt"
    pins.write_text(
        uv("export", "--package", name, "--no-emit-workspace", "--no-hashes", "--quiet")
    )
    uv(
        "pip",
        "install",
        "--python",
        str(python),
        "--constraint",
        str(pins),
        "--find-links",
        str(wheels),
        str(wheel),
    )
    code = f"import {module}; from {module} import {', '.join(NAMES[name].split())}\n"
    if name in README_RUNS:
        readme = (ROOT / "packages" / name / "README.md").read_text()
        save_readme_weights(tmp_path)  # which tarflow-prior's loads
        code += "".join(re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL))
    done = subprocess.run(
        [python, "-W", "error::ImportWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
