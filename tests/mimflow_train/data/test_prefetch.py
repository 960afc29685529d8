"""Items are made one ahead, in one thread, and errors come where they belong."""

import threading

import pytest

from mimflow_train.data.prefetch import prefetched


def test_the_next_item_is_made_while_one_is_used():
    made, second = [], threading.Event()

    def items():
        for number in range(3):
            made.append((number, threading.current_thread()))
            if number == 1:
                second.set()
            yield number

    ahead = prefetched(items())
    assert next(ahead) == 0
    assert second.wait(10)
    assert list(ahead) == [1, 2]
    assert [number for number, _ in made] == [0, 1, 2]
    assert len({thread for _, thread in made}) == 1
    assert made[0][1] is not threading.current_thread()


def test_an_error_is_raised_at_the_item_that_it_concerns():
    def items():
        yield 0
        raise OSError("unreadable")

    ahead = prefetched(items())
    assert next(ahead) == 0
    with pytest.raises(OSError, match="unreadable"):
        next(ahead)


def test_closing_midway_closes_what_makes_the_items():
    closed = []

    def items():
        try:
            yield from range(9)
        finally:
            closed.append(threading.active_count())

    before, source = threading.active_count(), items()
    ahead = prefetched(source)
    assert next(ahead) == 0
    ahead.close()
    assert closed == [before], "the thread has ended by then"
    assert list(source) == []


def test_the_thread_is_made_ready_first():
    ready = threading.local()

    def items():
        yield ready.device

    def prepare():
        ready.device = 3

    assert list(prefetched(items(), prepare)) == [3]
