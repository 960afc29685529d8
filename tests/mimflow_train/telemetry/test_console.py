import io
import sys

import pytest

from mimflow_train.telemetry import console
from mimflow_train.telemetry.console import Progress, counted, duration, said_to, say


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_line_comes_at_most_every_half_minute(clock, capsys):
    progress = Progress(0, 1000, clock=clock)
    for step in range(10, 1000, 10):
        clock.now += 7.0
        progress.show(step, {"loss": 1.0})
    steps = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert steps[:3] == ["50/1000", "100/1000", "150/1000"]


def test_images_are_counted_at_most_every_half_minute(clock, capsys):
    def batches():
        for _ in range(10):
            clock.now += 16.0
            yield range(200)

    assert [len(each) for each in counted(batches(), 2000, "samples", clock=clock)] == [200] * 10
    assert capsys.readouterr().err == (
        "samples: 400 of 2,000 images, 2 min 08 s left\n"
        "samples: 800 of 2,000 images, 1 min 36 s left\n"
        "samples: 1,200 of 2,000 images, 1 min 04 s left\n"
        "samples: 1,600 of 2,000 images, 32 s left\n"
    )


def test_images_are_counted_on_a_bar_that_leaves_nothing_behind(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(console, "_BAR_AFTER_SECONDS", 0.0)
    assert list(counted([range(3)], 3, "samples")) == [range(3)]
    assert "samples: " in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1].strip() == ""


def test_last_step_is_shown_at_once(clock, capsys):
    Progress(0, 20, clock=clock).show(20, {"loss": 1.0})
    assert capsys.readouterr().err == "step 20/20  loss 1\n"


def test_line_tells_loss_rate_speed_wait_and_time_left(clock, capsys):
    progress = Progress(100, 1000, clock=clock)
    clock.now = 31.0
    health = {"images_per_second": 412.34, "data_wait": 0.034, "steps_per_second": 0.25}
    progress.show(
        110, {"loss": 3.25, "nll": -0.4, "rate": 0.281, "process_memory_gib": 2, **health}
    )
    assert capsys.readouterr().err == (
        "step 110/1000  loss 3.25  rate 0.281  images/s 412  data wait 3%  59 min 20 s left\n"
    )


def test_line_tells_what_a_gpu_does_and_what_went_wrong_if_anything_did(clock, capsys):
    progress = Progress(0, 20, clock=clock)
    health = {"mfu": 0.2719, "cuda_memory_gib": 28.46, "skipped_steps": 0.0}
    progress.show(20, {"loss": 1.0, **health})
    progress.show(20, {"loss": 1.0, "skipped_steps": 2.0, "bad_images": 3.0})
    assert capsys.readouterr().err == (
        "step 20/20  loss 1  MFU 27.2%  GiB 28.5\n"
        "step 20/20  loss 1  skipped steps 2  bad images 3\n"
    )


def test_time_left_is_known_without_a_reported_speed(clock, capsys):
    progress = Progress(100, 200, clock=clock)
    clock.now = 40.0
    progress.show(180, {"loss": 1.0})
    assert capsys.readouterr().err.endswith("10 s left\n")


def test_terminal_has_a_bar_with_every_term(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(0, 50, clock=clock)
    progress.show(50, {"loss": 1.0, "pixel": 0.25, "images_per_second": 7.0})
    progress.close()
    shown = capsys.readouterr().err
    assert "50/50" in shown
    assert "pixel=0.25" in shown
    assert "images/s=7" in shown


def test_collapse_is_told(clock, capsys):
    progress = Progress(0, 1000, clock=clock)
    for step in range(10, 300, 10):
        progress.show(step, {"rate": 0.001, "pixel": 0.05})
    assert "the latents carry nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (59.9, "60 s"),
        (3599.0, "59 min 59 s"),
        (40.2 * 3600, "40 h 12 min"),
        (86400 * 3.0, "3 d 00 h"),
    ],
)
def test_duration_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_what_is_said_in_a_block_goes_to_its_file_and_to_stderr_afterwards(tmp_path, capsys):
    path = tmp_path / "0.words"
    with said_to(path):
        say("one")
        say("two")
    say("three")
    assert path.read_text() == "one\ntwo\n"
    assert capsys.readouterr().err == "three\n"


def test_what_no_file_takes_waits_for_the_next_line(tmp_path, capsys):
    path = tmp_path / "away" / "0.words"
    with said_to(path):
        say("one, of a disk that is full")
        path.parent.mkdir()
        say("two")
    assert path.read_text() == "one, of a disk that is full\ntwo\n"
    assert capsys.readouterr().err == ""


def test_what_no_file_has_taken_in_the_end_goes_to_stderr(tmp_path, capsys):
    with said_to(tmp_path / "gone" / "0.words"):
        say("one")
    assert capsys.readouterr().err == "one\n"


def test_a_name_that_is_no_text_can_be_said(tmp_path):
    path = tmp_path / "0.words"
    with said_to(path):
        say("Cannot decode " + b"\xff.png".decode(errors="surrogateescape"))
    assert path.read_text() == "Cannot decode \\udcff.png\n"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_that_takes_no_more_ends_nothing(monkeypatch, is_terminal):
    class Log(io.StringIO):
        is_full = False

        def write(self, text):
            if self.is_full:
                raise OSError(28, "No space left on device")
            return super().write(text)

        def isatty(self):
            return is_terminal

    monkeypatch.setattr(sys, "stderr", Log())
    progress = Progress(0, 20)
    Log.is_full = True
    progress.show(20, {"loss": 1.0})
    say("Warning: the disk is full.")
    progress.close()
    monkeypatch.setattr(console, "_BAR_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(console, "_LINE_EVERY_SECONDS", 0.0)
    assert list(counted(["ab", "c"], 3, "samples")) == ["ab", "c"]
    closed = io.StringIO()
    closed.close()
    for gone in (closed, None):
        monkeypatch.setattr(sys, "stderr", gone)
        say("Nobody is there.")
        Progress(0, 20).show(20, {"loss": 1.0})
        assert list(counted(["ab", "c"], 3, "samples")) == ["ab", "c"]
