import json

from mimflow_train.events import Recorder, follow


def test_record_is_one_line_of_json_for_each_report(tmp_path):
    recorder = Recorder(tmp_path, 0)
    recorder.write(10, {"loss": 2.5})
    recorder.write(20, {"loss": 1.5})
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 2.5), (20, 1.5)]


def test_what_comes_again_after_a_restart_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n{"st')
    Recorder(tmp_path, 10).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n'


def test_follower_tells_each_report_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    assert next(reports) == []
    path.write_text('{"step": 10, "loss": 2.5}\n')
    assert next(reports) == [(10, {"loss": 2.5})]
    assert next(reports) == []


def test_follower_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text('{"step": 10}\n{"step": 2')
    assert next(reports) == [(10, {})]
    with path.open("a") as file:
        file.write("0}\n")
    assert next(reports) == [(20, {})]


def test_follower_passes_over_steps_that_a_restart_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n')
    assert [step for step, _ in next(reports)] == [10, 20, 30]
    path.write_text('{"step": 10}\n')  # resumed from step 10
    assert next(reports) == []
    with path.open("a") as file:
        file.write('{"step": 20}\n{"step": 30}\n{"step": 40}\n')
    assert [step for step, _ in next(reports)] == [40]


def test_follower_starts_over_with_a_file_that_became_shorter(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text('{"step": 10, "loss": 1.2345678901234567890}\n')
    next(reports)
    path.write_text('{"step": 10}\n{"step": 20}\n')
    assert next(reports) == [(20, {})]


def test_follower_reads_only_what_is_new(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = follow(path)
    path.write_text('{"step": 10}\n')
    next(reports)
    path.write_text('{"step": 99}\n{"step": 20}\n')
    assert next(reports) == [(20, {})]
