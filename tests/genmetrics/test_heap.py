import platform
import resource
import subprocess
import sys

import pytest

from genmetrics import keep_freed_memory
from genmetrics.commands import arguments

PAGES = 40 * 2**22 // resource.getpagesize()
SCRIPT = """
import ctypes, resource, threading
from genmetrics.heap import keep_freed_memory
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no huge pages, which would be few
{call}
def blocks():
    return [b"x" * 2**22 for _ in range(40)]
def measure():
    for _ in range(3):
        blocks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
{run}
"""
THREAD = "thread = threading.Thread(target=measure); thread.start(); thread.join()"


def pages_met_anew(call, run):
    script = SCRIPT.format(call=call, run=run)
    return int(subprocess.check_output([sys.executable, "-c", script]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc")
@pytest.mark.parametrize("run", ["measure()", THREAD], ids=["first thread", "another thread"])
def test_memory_that_was_freed_is_not_met_anew(run):
    assert pages_met_anew("keep_freed_memory()", run) < PAGES / 10
    assert pages_met_anew("", run) > PAGES / 2  # else there is nothing to tune


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_nothing_happens_without_glibc(system, monkeypatch):
    opened = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("ctypes.CDLL", lambda name: opened.append(name) or object())
    keep_freed_memory()
    assert opened == ([None] if system == "linux" else [])


@pytest.mark.parametrize(("device", "is_kept"), [("auto", True), ("cpu", True), ("cuda", False)])
def test_commands_keep_freed_memory_where_a_cpu_computes(device, is_kept, monkeypatch):
    kept = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: int(device == "cuda"))
    monkeypatch.setattr(arguments, "keep_freed_memory", lambda: kept.append(True))
    assert arguments.choose_device(device) == device.replace("auto", "cpu")
    assert bool(kept) == is_kept
