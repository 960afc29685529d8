"""How calls fail where nothing checks types."""

import functools
import json
import subprocess
import sys

_ANSWER = """
import json, sys

def first_line(call, names):
    try:
        return f"no error: {eval(call, names)!r}"[:80].splitlines()[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]

for line in sys.stdin:
    setup, calls = json.loads(line)
    names = {}
    exec(setup, names)
    print(json.dumps([first_line(call, names) for call in calls]), flush=True)
"""


@functools.cache
def _process():
    command = [sys.executable, "-c", _ANSWER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def refusals(setup, calls):
    """Run calls in another process, as the type checker of this run would speak first."""
    process = _process()
    process.stdin.write(json.dumps([setup, list(calls)]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        _process.cache_clear()
    assert answer, "The process has ended; stderr says why."
    return dict(zip(calls, json.loads(answer), strict=True))
