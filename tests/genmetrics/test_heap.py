import subprocess
import sys

import pytest

from genmetrics.cli import main

SCRIPT = """
import resource
from genmetrics.heap import keep_freed_memory
{call}
def blocks():
    return [b"x" * 2**22 for _ in range(40)]  # 40,960 pages
for _ in range(3):
    blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_met_anew(call):
    return int(subprocess.check_output([sys.executable, "-c", SCRIPT.format(call=call)]))


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc")
def test_memory_that_was_freed_is_not_met_anew():
    assert pages_met_anew("keep_freed_memory()") < 1000
    assert pages_met_anew("") > 10000  # else there is nothing to tune


class KeptError(Exception):
    pass


def keep():
    raise KeptError


def test_commands_do_so(monkeypatch):
    monkeypatch.setattr("genmetrics.cli.keep_freed_memory", keep)
    with pytest.raises(KeptError):
        main(["protocols"])
