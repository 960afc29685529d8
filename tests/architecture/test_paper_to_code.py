"""docs/paper_to_code.md leaves nothing of the paper out and points at what exists."""

import re
import tomllib
from importlib import import_module
from operator import attrgetter
from pathlib import Path

from mimflow_train.reproduce.experiments import EXPERIMENTS

ROOT = Path(__file__).parents[2]
NUM_EQUATIONS, NUM_TABLES, NUM_FIGURES = 11, 10, 6  # of arXiv 2606.26016, appendices included
NAME = re.compile(r"[a-z][\w.]*:[A-Za-z][\w.]*")
COMMAND = re.compile(r"(mimflow-[a-z]+|genmetrics)( .+)?")
TEXT = (ROOT / "docs" / "paper_to_code.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if re.match(r"\| (Eq|Sec|App|Fig|Table)\b", line)
]
CODE = [code for row in ROWS for code in re.findall(r"`([^`]+)`", row[2])]
NAMES = [code for code in CODE if NAME.fullmatch(code)]
COMMANDS = [code.split() for code in CODE if COMMAND.fullmatch(code)]


def is_missing(name):
    module, _, attribute = name.partition(":")
    try:
        attrgetter(attribute)(import_module(module))
    except (ModuleNotFoundError, AttributeError):
        return True
    return False


def test_every_equation_table_and_figure_has_a_row():
    wanted = {f"Eq. {number}" for number in range(1, NUM_EQUATIONS + 1)}
    wanted |= {f"Table {number}" for number in range(1, NUM_TABLES + 1)}
    wanted |= {f"Fig. {number}" for number in range(1, NUM_FIGURES + 1)}
    assert wanted - {row[0] for row in ROWS} == set()


def test_every_row_has_four_cells_and_code():
    assert [row[0] for row in ROWS if len(row) != 4 or "`" not in row[2]] == []


def test_code_is_names_and_commands():
    assert [code for code in CODE if not (NAME.fullmatch(code) or COMMAND.fullmatch(code))] == []


def test_names_exist():
    assert [name for name in NAMES if is_missing(name)] == []


def test_commands_are_scripts():
    projects = [tomllib.loads(path.read_text()) for path in ROOT.glob("packages/*/pyproject.toml")]
    scripts = {name for each in projects for name in each["project"].get("scripts", {})}
    assert {program for program, *_ in COMMANDS} - scripts == set()


def test_metric_commands_exist():
    chosen = {words[1] for words in COMMANDS if words[0] == "genmetrics"}
    assert [name for name in chosen if is_missing(f"genmetrics.commands.{name}:HELP")] == []


def test_experiments_are_those_of_mimflow_reproduce():
    named = {words[1] for words in COMMANDS if words[0] == "mimflow-reproduce"}
    assert named == set(EXPERIMENTS)
