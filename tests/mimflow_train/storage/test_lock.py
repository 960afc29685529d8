"""A folder is one process's at a time: training refuses to share, reproducing waits."""

import errno
import fcntl
import threading
import time

import pytest

from mimflow_train.errors import ConfigError
from mimflow_train.storage import lock
from mimflow_train.storage.lock import locked, locked_in_turn


def test_a_run_folder_that_is_held_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="is at work in it"), locked(tmp_path):
        pass


def test_who_waits_for_a_folder_says_so_once_and_comes_next(tmp_path, monkeypatch):
    order, said = [], []
    monkeypatch.setattr(lock, "say", said.append)  # capsys loses what comes while it is read

    def second():
        with locked_in_turn(tmp_path):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locked_in_turn(tmp_path):
        waiting.start()
        while not said and waiting.is_alive():
            time.sleep(0.01)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    (line,) = said
    assert line.startswith(f"Waiting for {tmp_path}, which another command is making (process ")


def test_a_folder_that_was_let_go_of_is_taken_in_silence(tmp_path, capsys):
    for _ in range(2):
        with locked_in_turn(tmp_path):
            pass
    assert capsys.readouterr().err == ""


def test_where_nothing_can_be_locked_work_goes_on_aloud(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        pass
    assert capsys.readouterr().err == (
        f"Warning: {tmp_path} cannot be locked ([Errno 38] Function not implemented); "
        "see that nothing else is at work in it.\n"
    )
