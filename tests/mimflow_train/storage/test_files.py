import json
import os
import stat

import pytest

from mimflow_train.storage.files import read_json, read_reports, renamed_whole, written_whole


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"[1]", b"7", b"\xff"])
def test_what_is_no_whole_mapping_counts_as_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "file.json").write_bytes(content)
    assert read_json(tmp_path / "file.json") == {}


def test_a_torn_line_is_passed_over_wherever_it_is(tmp_path):
    assert read_reports(tmp_path) == []
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    text = "\n".join([lines[0], lines[1][:5], lines[2], "null", "7", lines[0][:6]])
    (tmp_path / "metrics.jsonl").write_bytes(text.encode() + b"\n\x81\xfe\n")
    assert read_reports(tmp_path) == [{"step": 1}, {"step": 3}]


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    with written_whole(tmp_path / "file") as draft:
        draft.write_text("new")
        assert [each.name for each in tmp_path.iterdir()] == [".file.draft"]
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "new")]


@pytest.mark.parametrize("written", ["", "half"])
def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path, written):
    def fail():
        with written_whole(tmp_path / "file") as draft:
            if written:
                draft.write_text(written)
            raise OSError("No space left on device")

    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        fail()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "old")]


@pytest.fixture
def synced(tmp_path, monkeypatch):
    """A list of what was made to outlive a power cut, and what had its name by then."""
    seen = []

    def sync(descriptor):
        status = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(status.st_mode)
        seen.append(("folder" if is_folder else status.st_size, (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    return seen


def test_a_file_that_has_its_name_outlives_a_power_cut(tmp_path, synced):
    with written_whole(tmp_path / "file") as draft:
        draft.write_text("whole")
    assert synced == [(5, False), ("folder", True)]


def test_files_by_the_thousand_do_not_wait_for_the_disk(tmp_path, synced):
    with renamed_whole(tmp_path / "file") as draft:
        draft.write_text("whole")
    assert not synced
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.usefixtures("_folders_without_sync")
def test_a_file_system_that_cannot_sync_a_folder_has_its_files(tmp_path):
    with written_whole(tmp_path / "file") as draft:
        draft.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
