"""The page of a run: complete, self-contained, and honest about what is missing."""

import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from mimflow_train.cli import report as command
from mimflow_train.config_file import write_config
from mimflow_train.overrides import override


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass


@pytest.fixture
def folder(config, tmp_path):
    write_config(override(config, ["data.source=<b>mine</b>"]), tmp_path)
    return tmp_path


def written(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([str(folder)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    return (folder / "report.html").read_text()


def test_page_holds_scores_curves_and_pictures_itself(folder, capsys):
    summary = {"psnr": 12.3456, "fd_flow": 99.0, "before_decoder_phase": {"psnr": 10.5}}
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [json.dumps({"step": s, "time": 0.0, "nll": 1.0 / s}) for s in (10, 20)]
    lines += [json.dumps({"step": 30, "time": 0.0, "gan": 0.5}), '{"step": 4']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    for name in ("samples", "reconstructions", *(f"samples/step_{i:08d}" for i in range(9))):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    text = written(folder, capsys)
    page = Page(text)
    assert page.open == []
    assert len(page.sources) == 2 + 1 + 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for part in ("12.35", "10.5", "now", "before the decoder phase", "Step 8", "Step 0"):
        assert part in text, part
    assert "not there yet" not in text
    assert "&lt;b&gt;mine&lt;/b&gt;" in text
    assert "<b>" not in text


def test_run_that_has_just_begun_says_what_is_missing(folder, capsys):
    text = written(folder, capsys)
    assert text.count("not there yet") == 5


def test_folder_without_a_run_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([str(tmp_path)])
    assert ended.value.code == 2
    assert "Expected a run folder" in capsys.readouterr().err
