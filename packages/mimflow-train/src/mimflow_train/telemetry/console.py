"""What a person sees of what takes long: a bar in a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from mimflow_train.telemetry.collapse import CollapseWarning

__all__ = ["Progress", "counted", "duration", "said_to", "say"]

_BAR_AFTER_SECONDS, _LINE_EVERY_SECONDS = 2.0, 30.0
_IN_LINE = ("loss", "rate", "gan", "discriminator")
_IF_ANY = {"skipped_steps": "skipped steps", "bad_images": "bad images"}
_IN_BAR = ("loss", "nll", "rate", "pixel", "perceptual", "gan", "discriminator")

Images = TypeVar("Images", bound=Sized)


class _Letterbox:
    """A file of lines; what a disk does not take, such as that it is full, waits for the next."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()  # a checkpoint's thread speaks as well
        self.kept: list[str] = []

    def put(self, line: str) -> None:
        with self._lock, suppress(OSError):
            self.kept.append(line)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{each}\n" for each in self.kept))
            self.kept = []


_letterbox: _Letterbox | None = None


def say(message: str) -> None:
    """Write one line to stderr, above the bar if there is one, or where :func:`said_to` says.

    A stderr that takes no more, as of a full disk or a terminal that is gone, ends no training.
    """
    if _letterbox is None:
        with _unheard():
            tqdm.write(message, file=sys.stderr)
    else:
        _letterbox.put(message)


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is no stderr, or it is closed
        return False


def _unheard() -> AbstractContextManager[None]:
    return suppress(OSError, ValueError)  # the latter of a file that was closed


@contextmanager
def said_to(path: Path) -> Iterator[None]:
    """Let what is said within a block go to a file, which another process reads out.

    Args:
        path: The file; lines are appended.
    """
    global _letterbox
    before, _letterbox = _letterbox, _Letterbox(path)
    try:
        yield
    finally:
        left, _letterbox = _letterbox.kept, before
        for each in left:
            say(each)


def counted(
    batches: Iterable[Images],
    total: int,
    name: str,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Images]:
    """Yield batches and show how many images are done, if it takes more than a moment.

    Args:
        batches: What takes long to make, or to use.
        total: Images in all.
        name: What they are.
        clock: Seconds that pass.
    """
    began = spoke = clock()
    done, delay = 0, _BAR_AFTER_SECONDS
    bar = _bar(total=total, desc=name, unit="image", leave=False, delay=delay)
    try:
        for batch in batches:
            yield batch
            done, now = done + len(batch), clock()
            if bar is not None:
                with _unheard():
                    bar.update(len(batch))
            elif now - spoke >= _LINE_EVERY_SECONDS and done < total:
                spoke = now
                left = duration((total - done) * (now - began) / done)
                say(f"{name}: {done:,} of {total:,} images, {left} left")
    finally:
        if bar is not None:
            with _unheard():
                bar.close()


def _bar(**options: Any) -> "tqdm[None] | None":
    """Return a bar; None where nobody would see it."""
    if _is_terminal():
        with _unheard():
            return tqdm(**options, file=sys.stderr)
    return None


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    Example:
        >>> [duration(each) for each in (59.4, 3720.0, 2e5, 3.2e8)]
        ['59 s', '1 h 02 min', '2 d 07 h', '10.1 years']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds / 60)} min {int(seconds % 60):02d} s"
    hours = int(seconds / 3600)
    if hours < 48:
        return f"{hours} h {int(seconds % 3600 / 60):02d} min"
    if hours < 365 * 24:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours / (365.25 * 24):.1f} years"


class Progress:
    """Steps done, loss, speed and time left, on stderr; and a word if the posterior collapses.

    Args:
        start: Steps already done.
        steps: Steps in all.
        clock: Seconds that pass.
    """

    def __init__(
        self, start: int, steps: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._start, self._clock = steps, start, clock
        self._began = self._spoke = clock()
        self._collapse = CollapseWarning(say)
        self._bar = _bar(initial=start, total=steps, unit="step")

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show a report: on the bar, or as a line if the last is half a minute old."""
        self._collapse.look(step, values)
        now = self._clock()
        if self._bar is not None:
            shown = {name: f"{values[name]:.3g}" for name in _IN_BAR if name in values}
            with _unheard():
                self._bar.set_postfix(shown | _speed(values))
                self._bar.update(step - self._bar.n)
        elif now - self._spoke >= _LINE_EVERY_SECONDS or step == self._steps:
            self._spoke = now
            say("  ".join([f"step {step}/{self._steps}", *self._parts(step, values, now)]))

    def _parts(self, step: int, values: Mapping[str, float], now: float) -> list[str]:
        terms = [f"{name} {values[name]:.3g}" for name in _IN_LINE if name in values]
        terms += [f"{name} {value}" for name, value in _speed(values).items()]
        # A Ray driver that continues a run reads its earlier reports at once: ask the worker.
        elapsed = max(now - self._began, 1e-9)
        speed = values.get("steps_per_second") or (step - self._start) / elapsed
        if step < self._steps and speed > 0:
            terms.append(f"{duration((self._steps - step) / speed)} left")
        return terms

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            with _unheard():
                self._bar.close()


def _speed(values: Mapping[str, float]) -> dict[str, str]:
    shown = {}
    if "images_per_second" in values:
        shown["images/s"] = f"{values['images_per_second']:.3g}"
    if "data_wait" in values:
        shown["data wait"] = f"{values['data_wait']:.0%}"
    if "mfu" in values:
        shown["MFU"] = f"{values['mfu']:.1%}"
    if "cuda_memory_gib" in values:
        shown["GiB"] = f"{values['cuda_memory_gib']:.1f}"
    shown |= {
        words: f"{values[name]:.0f}" for name, words in _IF_ANY.items() if values.get(name, 0) > 0
    }
    return shown
