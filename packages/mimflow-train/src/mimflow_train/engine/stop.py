"""Signals that ask a run to save and end."""

import os
import signal
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["StopRequest"]

_ECHO_SECONDS = 0.5
_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_MANY = 4096


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a question that the loop asks between steps.

    Slurm sends the last one ahead of a job's end (``--signal=USR1@120``), and SIGTERM at the end,
    which says nothing new. Any other second signal ends the process at once, unless it is the first
    one's echo: ``uv run`` passes on to its child what the whole process group has had already.

    Which of both it is depends on when it came. Python calls handlers only between its own
    instructions, which a wait for a GPU or for other workers is none of, so a thread listens too.

    Args:
        before_exit: Called at the second signal, for what would outlive the process.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        before_exit: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.received: int | None = None
        self._heard_at: float | None = None  # received may be what another worker has heard
        self._is_ending = self._has_ended_job = False
        self._before_exit, self._clock = before_exit, clock
        self._lock = threading.RLock()  # a handler may interrupt another
        self._arrived = set[int]()  # judged already, by their bytes; their handlers come later

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen within a block; to be entered in the main thread."""
        self._ear, mouth = socket.socketpair()
        mouth.settimeout(0)  # as the call below wants it
        thread = threading.Thread(target=self._listen, daemon=True)
        thread.start()
        with self._ear:
            try:
                with mouth, self._heard_by(mouth):
                    yield
            finally:
                thread.join()  # it ends when the mouth is closed

    @contextmanager
    def _heard_by(self, mouth: socket.socket) -> Iterator[None]:
        woken = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        if woken != -1:  # another wants the bytes; handlers have to do
            signal.set_wakeup_fd(woken)
        before = [signal.signal(number, self._handle) for number in _TO_STOP]
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in zip(_TO_STOP, before, strict=True):
                signal.signal(number, handler)

    def _listen(self) -> None:
        while self._ear.recv(1, socket.MSG_PEEK):
            self._judge(None)

    def _handle(self, number: int, _frame: types.FrameType | None) -> None:
        self._judge(number)

    def _judge(self, called: int | None) -> None:
        """Judge what has arrived, and the signal whose handler is called if no byte told of it."""
        with self._lock:
            try:
                numbers = self._ear.recv(_MANY, socket.MSG_DONTWAIT)
            except BlockingIOError:
                numbers = b""
            fresh = [number for number in numbers if number in _TO_STOP]
            self._arrived.update(fresh)
            if called is not None and called not in self._arrived:
                fresh.append(called)
            self._arrived.discard(called)
            is_second = bool(fresh) and self._is_second(fresh[0])
        if is_second:
            self.end()

    def _is_second(self, number: int) -> bool:
        now, before = self._clock(), self._heard_at
        if before is not None and now - before < _ECHO_SECONDS:
            return False
        if self._is_ending:
            os._exit(128 + number)  # the third does not wait
        if (self.received, number) == (signal.SIGUSR1, signal.SIGTERM) and not self._has_ended_job:
            self._heard_at, self._has_ended_job = now, True
            return False
        self._heard_at, self._is_ending = now, before is not None
        self.received = number if self._is_ending else self.received or number
        return self._is_ending

    def end(self) -> NoReturn:
        """End the process at once, with the code of the signal that was received."""
        try:
            self._before_exit()
        finally:
            os._exit(128 + (self.received or 0))
