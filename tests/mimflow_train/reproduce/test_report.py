"""A report keeps the paper's numbers and ours apart."""

import json
from math import inf, nan

from mimflow_train.reproduce.design import Claim, Experiment, Variant
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.report import QUICK_NOTE, to_markdown, write_report

EXPERIMENT = Experiment(
    title="Table 0",
    measure="scores",
    variants=(Variant(label="a"), Variant(label="b")),
    claims=(Claim("a beats b", "gfid", "a", "b"),),
    notes=("a note",),
)
OUTCOME = Outcome(
    columns=(
        Column(key="gfid", paper="gFID", ours="fd_efflite0", digits=1),
        Column(key="psnr", paper="", ours="PSNR", digits=1),
    ),
    rows=(
        Row(label="a", paper={"gfid": 12.82}, ours={"gfid": (3.0, 5.0), "psnr": (7.0, 7.0)}),
        Row(label="b", paper={"gfid": 29.0}, why_not="needs another scale"),
        Row(label="c", paper={"gfid": "collapsed"}, ours={"gfid": (2.0, 2.5)}),
    ),
    counts="N = 13 samples",
)
MADE = {"command": "mimflow-reproduce table0", "quick": False, "commit": "abc"}


def line(text, label):
    (found,) = (each for each in text.splitlines() if each.startswith(f"| {label} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_ours_is_a_mean_with_its_spread():
    assert line(to_markdown(EXPERIMENT, OUTCOME, MADE), "a") == [
        "a",
        "12.82",
        "4.0 +- 1.4",
        "7.0 +- 0.0",
    ]


def test_what_is_not_run_is_called_so_and_not_the_papers_number():
    text = to_markdown(EXPERIMENT, OUTCOME, MADE)
    assert line(text, "b") == ["b", "29", "not run", "not run"]
    assert "Not run: b: needs another scale." in text


def test_what_a_run_cannot_have_is_none():
    text = to_markdown(EXPERIMENT, OUTCOME, MADE)
    assert line(text, "c") == ["c", "collapsed", "2.2 +- 0.4", "none"]


def test_the_head_says_whose_a_column_is():
    head = to_markdown(EXPERIMENT, OUTCOME, MADE).splitlines()[2]
    assert head == "|  | paper, ImageNet 256: gFID | ours: fd_efflite0 | ours: PSNR |"


def test_claims_counts_notes_and_origin_are_told():
    text = to_markdown(EXPERIMENT, OUTCOME, MADE)
    for words in ("a beats b", "**not run**", "N = 13 samples.", "- a note", "commit abc"):
        assert words in text


def test_a_quick_report_says_that_it_means_nothing():
    assert QUICK_NOTE in to_markdown(EXPERIMENT, OUTCOME, MADE | {"quick": True})
    assert "QUICK" not in to_markdown(EXPERIMENT, OUTCOME, MADE)


def test_json_holds_every_seed(tmp_path):
    write_report(tmp_path, EXPERIMENT, OUTCOME, MADE)
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["rows"][0]["ours"] == {"gfid": [3.0, 5.0], "psnr": [7.0, 7.0]}
    assert plain["claims"][0]["found"] == "not run"
    assert plain["made"]["quick"] is False


def test_a_seed_that_diverged_is_in_the_cell_and_null_in_json(tmp_path):
    rows = (
        Row(label="a", ours={"gfid": (3.0, nan, 5.0)}, diverged=(1,)),
        Row(label="b", diverged=(0, 1, 2)),
        Row(label="c", ours={"gfid": (2.0, inf, 1.0)}),
    )
    outcome = Outcome(columns=OUTCOME.columns, rows=rows, counts="N = 13 samples")
    text = write_report(tmp_path, EXPERIMENT, outcome, MADE)
    assert line(text, "a") == ["a", "4.0 +- 1.4; diverged at seed 1"]
    assert line(text, "b") == ["b", "diverged at seed 0, 1, 2"]
    assert line(text, "c") == ["c", "inf"]
    plain = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["diverged"] for row in plain] == [[1], [0, 1, 2], []]
    assert plain[0]["ours"] == {"gfid": [3.0, None, 5.0]}
    assert plain[2]["ours"] == {"gfid": [2.0, "inf", 1.0]}
