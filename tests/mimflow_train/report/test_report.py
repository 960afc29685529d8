"""The page of a run: complete, self-contained, and honest about what is missing."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mimflow_train.cli import report as command
from mimflow_train.config.file import write_config
from mimflow_train.evaluation.diagnostics import diagnose, write_diagnostics
from mimflow_train.model import MIMFlow
from mimflow_train.report import curves, tables
from mimflow_train.report.page import escaped, write

VOID = ("meta", "img", "link")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SPECTRUM = {
    "n": 2,
    "dim": 24,
    "resolved": 1,
    "samples": [
        {"sigma_max": 3.0, "sigma_min": 0.5, "log10_kappa": 0.8},
        {"sigma_max": 4.0, "sigma_min": None, "log10_kappa": None},
    ],
}
SCORE = {"value": 12.5, "se": 0.25, "n_samples": 24, "n_ref": 16}
EVALUATION = {
    "of": {"step": 6, "weights": "ema", "guidance": 0.0, "images": "emoji"},
    "samples": {"metrics": {"fd_efflite0": SCORE}, "warnings": [{"message": "Few images."}]},
    "masked_reconstruction": {"metrics": {"psnr": {"value": 9.0, "n_pairs": 16}}},
    "whole_reconstruction": {"metrics": {}},
    "inversion_error": 1e-6,
    "num_inverted": 13,
    "spectrum": SPECTRUM,
}


class Page(HTMLParser):
    """What a page holds; tags must be closed in the order in which they were opened."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.anchors = [], [], []
        self.captions, self.open = 0, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.sources.append(values["src"])
        if tag == "a":
            self.links.append(values["href"])
        self.anchors += [values["id"]] if "id" in values else []
        self.captions += tag == "figcaption"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def with_images(config, **changes):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


@pytest.fixture
def folder(config, tmp_path):
    write_config(with_images(config, source="<b>mine</b>"), tmp_path)
    return tmp_path


@pytest.fixture
def finished(folder, config, data):
    """A run folder with everything that a page can show."""
    summary = {
        "num_images": 16,
        "psnr": 12.3456,
        "fd_flow": 99.0,
        "before_decoder_phase": {"psnr": 10.5},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"step": s, "time": 0.0, "nll": 1 / s, "images_per_second": 7.0, "rate_bits": 2.0}
        for s in (10, 20)
    ]
    lines.append({"step": 30, "time": 0.0, "gan": 0.5, "rate_bits": None})
    lines = [*map(json.dumps, lines)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4']))
    for name in ("samples", "reconstructions", *(f"samples/step_{i:08d}" for i in range(9))):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    write_diagnostics(diagnose(MIMFlow(config.model).eval(), config, data), folder)
    (folder / "eval").mkdir()
    (folder / "eval" / "scores.json").write_text(json.dumps(EVALUATION))
    manifest = folder / "checkpoints" / "step_00000006" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"versions": {"torch": "2.15"}, "commit": "f00d"}))
    return folder


def run(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    assert ended.value.code == code
    return capsys.readouterr()


def written(folder, capsys):
    assert run(capsys, folder).out == f"{folder / 'report.html'}\n"
    return (folder / "report.html").read_text()


def test_page_is_balanced_and_holds_its_pictures_itself(finished, capsys):
    page = Page(written(finished, capsys))
    assert page.open == []
    # samples, reconstructions, curves, health, 3 of latents, 4 of the flow, spectrum, 4 grids
    assert len(page.sources) == page.captions == 2 + 2 + 3 + 4 + 1 + 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.links == [f"#{anchor}" for anchor in page.anchors]


def test_page_is_complete(finished, capsys):
    text = written(finished, capsys)
    assert "not there yet" not in text
    for part in ("12.35", "10.50", "before the decoder phase", "Step 8", "Step 0", "f00d"):
        assert part in text, part


def test_page_says_what_a_run_began_with(folder, capsys):
    began = {"from": "runs/a", "checkpoint": "step_00000009", "weights": "ema", "sha256": "ab" * 32}
    manifest = folder / "checkpoints" / "step_00000006" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"init": {**began, "at_random": []}}))
    said = f"began with the ema weights of step_00000009 in runs/a (sha256 {'ab' * 8})."
    assert said in written(folder, capsys)


@pytest.mark.usefixtures("blank_drawings")
def test_metrics_come_with_their_n(finished, capsys):
    text = written(finished, capsys)
    for cells in ("12.50</td>", "0.2500</td>", "24 and 16</td>", "13</td>", "N = 16 held-out"):
        assert cells in text, cells
    assert "Few images." in text


@pytest.mark.usefixtures("blank_drawings")
def test_scores_of_genmetrics_say_what_they_are_of(finished, capsys):
    said = "Of the ema weights at step 6, guidance 0, against held-out images of emoji."
    assert f"{said}</p>" in written(finished, capsys)
    shutil.copytree(*(finished / "checkpoints" / f"step_0000000{step}" for step in (6, 8)))
    assert f"{said} The run is at step 8 now" in written(finished, capsys)
    older = {name: value for name, value in EVALUATION.items() if name != "of"}
    (finished / "eval" / "scores.json").write_text(json.dumps(older))
    assert "do not say which weights they are of" in written(finished, capsys)


@pytest.mark.usefixtures("blank_drawings")
def test_the_page_says_how_far_the_run_is(finished, config, capsys):
    assert f"At step 6 of {config.steps} joint and" in written(finished, capsys)


@pytest.mark.usefixtures("blank_drawings")
def test_a_copy_beside_a_picture_is_not_shown(finished, capsys):
    before = Page(written(finished, capsys)).sources
    shutil.copy(finished / "samples" / "step_00000008.png", finished / "samples" / "step_8 (1).png")
    assert Page(written(finished, capsys)).sources == before


def test_scores_that_there_are_not_are_no_numbers():
    table = tables.summary_table({"gap_closed": None, "fd_flow": 7.5, "class_accuracy": None})
    assert 'closes</td><td class="number">none<' in table
    assert "7.500" in table
    assert "probe sees" not in table


def test_names_are_text_and_no_markup(folder, capsys):
    text = written(folder, capsys)
    assert "&lt;b&gt;mine&lt;/b&gt;" in text
    assert "<b>" not in text


def test_run_that_has_just_begun_says_what_is_missing(folder, capsys):
    page = written(folder, capsys)
    # scores, two pictures, curves, health, latents, flow, spectrum, genmetrics, grids
    assert page.count("not there yet") == 10
    assert Page(page).open == []


def test_torn_files_cost_their_section_and_not_the_page(finished, capsys):
    (finished / "diagnostics.json").write_text('{"nll": ')
    for folder in (finished / "checkpoints").glob("step_*"):
        (folder / "manifest.json").write_text("{")
    text = written(finished, capsys)
    assert "Configuration" in text


def test_steps_are_whole_on_the_axes_of_a_short_run(monkeypatch):
    drawings = []
    monkeypatch.setattr(curves, "as_png", lambda figure: drawings.append(figure) or b"")
    curves.panels({"run": [{"step": step, "nll": 1.0} for step in (10, 11, 12)]}, {"nll": ""})
    ticks = drawings[0].axes[0].get_xticks()
    assert [tick for tick in ticks if 10 <= tick <= 12] == [10, 11, 12]


def test_large_pictures_are_made_smaller(folder, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "samples.png", compress_level=1)
    assert (folder / "samples.png").stat().st_size > 12e6
    page = Page(written(folder, capsys))
    assert page.sources[0].startswith("data:image/webp;base64,")
    assert (folder / "report.html").stat().st_size < 6e6


@pytest.mark.parametrize("rest", [0, 500_000], ids=["cut", "zeros"])
def test_a_torn_picture_costs_no_page(folder, capsys, rest):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "samples.png")
    whole = (folder / "samples.png").read_bytes()
    (folder / "samples.png").write_bytes(whole[:600_000] + bytes(rest))
    assert "samples.png: not there yet" in written(folder, capsys)


def test_a_name_that_is_no_unicode_is_written_with_its_bytes(tmp_path):
    write(escaped("caf\udce9"), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == r"caf\udce9"


def test_folder_without_a_run_is_one_sentence(tmp_path, capsys):
    assert "Expected a run folder" in run(capsys, tmp_path, code=2).err


def test_a_file_of_weights_has_no_page(tmp_path, capsys):
    (tmp_path / "w.safetensors").touch()
    said = run(capsys, tmp_path / "w.safetensors", code=2).err
    assert "Expected run folders, which have curves and pictures; got the file" in said


def test_runs_side_by_side_show_what_differs(finished, config, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "both.html"
    write_config(with_images(dataclasses.replace(config, seed=11), source="<b>mine</b>"), other)
    (other / "summary.json").write_text(json.dumps({"num_images": 17, "psnr": 8.25}))
    assert run(capsys, finished, other, "--out", out).out == f"{out}\n"
    text = out.read_text()
    assert Page(text).open == []
    assert '<tr><td>seed</td><td class="number">0</td><td class="number">11</td></tr>' in text
    assert '<td class="number">12.35</td><td class="number">8.250</td>' in text
    assert "optim.lr" not in text
    assert "Here N differs" in text
    (other / "summary.json").unlink()
    diagnostics = json.loads((finished / "diagnostics.json").read_text()) | {"probe": None}
    (other / "diagnostics.json").write_text(json.dumps(diagnostics))  # as of a run of one class
    run(capsys, finished, other, "--out", out)
    assert "Here N differs" not in out.read_text()


def test_many_classes_do_not_make_the_page_of_several_runs_wide(finished, config, tmp_path, capsys):
    names = tuple(f"class {number}" for number in range(100))
    data = dataclasses.replace(config.data, class_names=names)
    flow = dataclasses.replace(config.model.flow, num_classes=100)
    model = dataclasses.replace(config.model, flow=flow)
    write_config(dataclasses.replace(config, data=data, model=model), tmp_path / "other")
    out = tmp_path / "both.html"
    run(capsys, finished, tmp_path / "other", "--out", out)
    cells = re.findall(r'<td class="number">([^<]*)', out.read_text())
    assert 60 < max(map(len, map(html.unescape, cells))) < 70


def test_page_of_one_run_stays_in_its_folder(folder, capsys):
    message = run(capsys, folder, "--out", "x.html", code=2).err
    assert "Expected several runs with --out" in message


@pytest.mark.slow
def test_browser_shows_every_picture_and_complains_of_nothing(finished, tmp_path, capsys):
    probe = """<script>addEventListener("load", () => {
      const images = [...document.images];
      const good = images.filter(each => each.complete && each.naturalWidth && each.width);
      document.title = `${good.length} of ${images.length}, ` +
        (document.documentElement.scrollWidth > innerWidth ? "too wide" : "fits");
    })</script></body>"""
    assert CHROMIUM is not None, "this test opens the report in Chromium: install it"
    page = tmp_path / "probed.html"
    page.write_text(written(finished, capsys).replace("</body>", probe))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,800", "--dump-dom"]
    shown = subprocess.run(
        [CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>16 of 16, fits</title>" in shown.stdout
    assert "CONSOLE" not in shown.stderr
