"""What every package of the workspace carries."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(ROOT.glob("packages/*"))


def project(package):
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_package_is_complete(package):
    module = package.name.replace("-", "_")
    assert (package / "src" / module / "py.typed").is_file()
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (package / "README.md").read_text().startswith(f"# {package.name}\n")
    assert "## Unreleased" in (package / "CHANGELOG.md").read_text()
    assert project(package)["requires-python"] == ">=3.11"
    assert "torch>=2.11" in project(package)["dependencies"]


def test_every_script_is_installed_from_the_root():
    declared = {name for package in PACKAGES for name in project(package).get("scripts", {})}
    installed = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    assert declared
    assert declared <= installed


def test_modules_are_short():
    sources = ROOT.glob("packages/*/src/**/*.py")
    long = {path.name: n for path in sources if (n := len(path.read_text().splitlines())) > 320}
    assert long == {}


@pytest.mark.parametrize("name", ["genmetrics", "mimflow-train"])
def test_map_of_the_code_is_whole(name):
    package = ROOT / "packages" / name
    source, text = package / "src" / name.replace("-", "_"), (package / "README.md").read_text()
    rooms = [path.parent.name + "/" for path in source.glob("*/__init__.py")]
    modules = [path.name for path in source.glob("*.py")]
    assert {each for each in rooms + modules if f"`{each}`" not in text} == {"__init__.py"}
