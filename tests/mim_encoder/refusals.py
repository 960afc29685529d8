"""How calls fail where nothing checks types."""

import subprocess
import sys

_TRY = """
for call in {calls!r}:
    try:
        print(f"no error: {{eval(call)!r}}"[:80].splitlines()[0])
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}".splitlines()[0])
"""


def refusals(setup, calls):
    """Run calls in a process of its own, as the type checker of this run would speak first."""
    script = setup + _TRY.format(calls=list(calls))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(calls, done.stdout.splitlines(), strict=True))
