import json
import math
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from mimflow_train.telemetry.events import Recorder, follow, follow_words


def events(path):
    """Return what TensorBoard reads of an event file."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(path):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(path)
        for value in event.summary.value
    ]


def test_record_is_one_line_of_json_for_each_report(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder.write(10, {"loss": 2.5})
    recorder.write(20, {"loss": 1.5})
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 2.5), (20, 1.5)]


def test_what_is_not_finite_is_null_in_json_and_nan_to_who_follows(tmp_path, caplog):
    recorder = Recorder(tmp_path, 0)
    recorder.write(10, {"loss": math.nan, "norm": math.inf, "psnr": 2.5})
    recorder.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["loss"], line["norm"], line["psnr"]) == (None, None, 2.5)
    ((step, values),) = next(follow(tmp_path / "metrics.jsonl"))
    assert (step, values["psnr"]) == (10, 2.5)
    assert math.isnan(values["loss"])
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert [str(value) for _, _, value in scalars(path)] == ["nan", "inf", "2.5"]
    assert not caplog.records  # tensorboardX has a line for each


def test_tensorboard_is_told_each_report_at_once_and_what_is_outdated(tmp_path):
    recorder = Recorder(tmp_path, 10)
    recorder.write(20, {"loss": 2.5, "nll": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, begun, *_ = events(path)
    assert version.file_version == "brain.Event:2"
    assert (begun.step, begun.session_log.status) == (11, begun.session_log.START)
    assert scalars(path) == [(20, "loss", 2.5), (20, "nll", 0.5)]
    recorder.close()


def test_a_disk_that_was_full_costs_reports_and_no_more(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder.write(10, {"loss": 2.5})
    recorder._board._file.close()
    full = Path("/dev/full").open("wb")  # noqa: SIM115 - the recorder closes it
    recorder._board._file = full
    with pytest.raises(OSError, match="No space left"):
        recorder.write(20, {"loss": 1.5})
    assert full.closed
    for step in range(30, 330, 10):  # more than tensorboardX's own queue of 10 takes
        recorder.write(step, {"loss": 0.5})
    recorder.close()
    first, second = sorted((tmp_path / "tensorboard").iterdir())
    assert scalars(first) == [(10, "loss", 2.5)]
    assert [step for step, _, _ in scalars(second)] == [*range(30, 330, 10)]


def test_event_files_are_those_that_tensorboardx_writes(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder.write(10, {"loss": 2.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    writer = RecordWriter(str(tmp_path / "theirs"))
    for event in events(path):
        writer.write(event.SerializeToString())
    writer.close()
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    recorder.close()


def test_a_record_that_cannot_be_rewritten_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(report(10, 1) + report(20, 2))
    write = Path.write_text

    def full(self, text, **_):
        write(self, text[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        Recorder(tmp_path, 10)
    assert path.read_text() == report(10, 1) + report(20, 2)
    Recorder(tmp_path, 20).close()  # of which nothing is to be dropped
    assert path.read_text() == report(10, 1) + report(20, 2)


def test_a_record_whose_file_went_away_is_opened_again(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder._lines.close()
    recorder._lines = Path("/dev/full").open("a", buffering=1)  # noqa: SIM115 - it closes it
    with pytest.raises(OSError, match="No space left"):
        recorder.write(10, {"loss": 2.5})
    recorder.write(20, {"loss": 1.5})
    recorder.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 20


def test_what_comes_again_after_a_restart_is_dropped(tmp_path):
    text = b'{"step": 10}\nnull\n\x81\xfe\n{"step": 20}\n{"st'
    (tmp_path / "metrics.jsonl").write_bytes(text)
    Recorder(tmp_path, 10).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n'


def test_follower_tells_each_report_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    assert next(reports) == []
    path.write_text('{"step": 10, "time": 1.0, "loss": 2.5}\n')
    assert next(reports) == [(10, {"time": 1.0, "loss": 2.5})]
    assert next(reports) == []


def report(step, time):
    return json.dumps({"step": step, "time": time}) + "\n"


def test_follower_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    second = report(20, 2)
    path.write_text(report(10, 1) + second[:9])
    assert next(reports) == [(10, {"time": 1})]
    with path.open("a") as file:
        file.write(second[9:])
    assert next(reports) == [(20, {"time": 2})]


def test_follower_gives_the_steps_that_a_restart_repeats_and_none_before(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text(report(10, 1) + report(20, 2) + report(30, 3))
    assert [step for step, _ in next(reports)] == [10, 20, 30]
    path.write_text(report(10, 1))  # resumed from step 10
    assert next(reports) == []
    with path.open("a") as file:
        file.write(report(20, 4))
    assert next(reports) == [(20, {"time": 4})]


def test_follower_hears_a_restart_on_a_machine_whose_clock_is_behind(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text(report(10, 1000) + report(20, 2000))
    next(reports)
    path.write_text(report(10, 1000) + report(20, 5))
    assert next(reports) == [(20, {"time": 5})]


def test_follower_starts_over_with_a_file_that_became_shorter(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text(report(10, 1) + report(20, 2) + report(30, 3))
    next(reports)
    path.write_text(report(10, 1) + report(20, 4))
    assert next(reports) == [(20, {"time": 4})]


def test_follower_reads_only_what_is_new(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text(report(10, 1))
    next(reports)
    path.write_text(report(99, 9) + report(20, 2))
    assert next(reports) == [(20, {"time": 2})]


@pytest.mark.parametrize("what", ["open", "glob"])
def test_followers_wait_for_a_file_system_that_is_away(tmp_path, monkeypatch, what):
    path = tmp_path / "metrics.jsonl"
    reports, words = follow(path), follow_words(tmp_path)
    path.write_text(report(10, 1))
    (tmp_path / "0.words").write_text("one\n")

    def away(*_, **__):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, what, away)
        assert (next(words), next(reports) if what == "open" else []) == ([], [])
    assert (next(words), next(reports)) == (["one"], [(10, {"time": 1})])


def test_words_of_all_workers_are_followed_line_by_line(tmp_path):
    words = follow_words(tmp_path)
    assert next(words) == []
    (tmp_path / "0.words").write_text("one\ntwo\nth")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert next(words) == ["one", "two"]
    with (tmp_path / "0.words").open("a") as file:
        file.write("ree\n")
    (tmp_path / "1.words").write_text("four\n")
    assert next(words) == ["three", "four"]
    assert next(words) == []
