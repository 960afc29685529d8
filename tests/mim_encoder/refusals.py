"""How calls fail where nothing checks types."""

import json

from tests.scripts import run_script

_ANSWER = """
import json

def first_line(call, names):
    try:
        return f"no error: {eval(call, names)!r}"[:80].splitlines()[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]

names = {}
exec(setup, names)
print(json.dumps([first_line(call, names) for call in calls]))
"""


def refusals(setup, calls):
    """Run calls in another process, as the type checker of this run would speak first."""
    run = run_script(f"setup, calls = {setup!r}, {list(calls)!r}\n{_ANSWER}")
    assert run.returncode == 0, run.stderr
    return dict(zip(calls, json.loads(run.stdout), strict=True))
