"""Scripts as a user runs them, where nothing checks types, each in a process of its own.

The processes are forks of one that has imported the packages, which takes seconds. So what an
import brings with it is not to be asked here; and nothing that is left to the exit is done.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_PARENT = """
import json, os, sys, traceback
import timm, torch
from genmetrics import Evaluator, evaluate
from mim_encoder import MaskedEncoder
from tarflow_prior import TarFlow
from vit_decoder import PixelDecoder

def next_script():
    for line in sys.stdin:
        script, files, folder, environment = json.loads(line)
        if not (child := os.fork()):
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            for number, file in enumerate(files):
                os.dup2(os.open(file, os.O_RDWR), number)
            return script
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)

try:
    exec(next_script())
except BaseException:
    traceback.print_exc()
    os._exit(1)
sys.stdout.flush()
os._exit(0)  # freeing all that was imported takes a second
"""


@functools.cache
def _parent():
    command = [sys.executable, "-c", _PARENT]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(parent.communicate)
    return parent


def run_script(script, folder=None):
    """Return what ``subprocess.run([sys.executable, "-c", script], cwd=folder)`` does, as text."""
    parent = _parent()
    with TemporaryDirectory() as made:
        out, err = Path(made, "out"), Path(made, "err")
        out.touch()
        err.touch()
        files = [os.devnull, str(out), str(err)]
        request = script, files, str(folder or Path.cwd()), dict(os.environ)
        print(json.dumps(request), file=parent.stdin, flush=True)
        code = parent.stdout.readline()
        assert code, "The parent of all scripts has ended; stderr says why."
        return subprocess.CompletedProcess(script, int(code), out.read_text(), err.read_text())
