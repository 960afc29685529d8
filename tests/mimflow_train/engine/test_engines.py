"""One loop under three engines: the same bits, whoever starts, kills and restarts the workers."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from mimflow_train.config import DecoderPhaseConfig, DiscriminatorConfig, OptimConfig
from mimflow_train.config.file import to_dict
from mimflow_train.storage.checkpoint import fingerprint

pytestmark = pytest.mark.slow

JOINT, ALL = 60, 80
PROGRAM = """
import json, os, sys
from pathlib import Path
import mimflow_train.loop
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict, write_config
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers
from mimflow_train.plan import Plan

mimflow_train.loop._REPORT_EVERY = 1

if __name__ == "__main__":
    engine, workers, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    config = from_dict(TrainConfig, json.loads(Path(sys.argv[4]).read_text()))
    out.mkdir(exist_ok=True)
    if os.environ.get("RANK", "0") == "0":  # one writer, as the command has it
        write_config(config, out)
    plan = Plan(until=config.all_steps, checkpoint_every=5)
    Launch(engine, "cpu", Workers(workers, workers)).train(config, out, plan)
"""


@pytest.fixture
def start(config, folder, tmp_path):
    """Return a function that starts a run in a new process: engine, workers, run folder."""
    decoder = dataclasses.replace(config.model.decoder, depth=2, drop_path=0.3)
    flow = dataclasses.replace(config.model.flow, num_classes=2)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, decoder=decoder, flow=flow),
        loss=dataclasses.replace(config.loss, feature=0.0),
        data=dataclasses.replace(config.data, source=str(folder), class_names=("blue", "red")),
        steps=JOINT,
        decoder_phase=DecoderPhaseConfig(
            steps=ALL - JOINT,
            gan_weight=0.5,
            adaptive=True,
            augment=True,
            discriminator=DiscriminatorConfig(width=16, depth=1),
            optim=OptimConfig(lr=1e-3, ema_decay=0.9),
        ),
    )
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def function(engine, workers, name, micro_batch=0):
        path = tmp_path / f"{name}.json"
        each = dataclasses.replace(config, micro_batch=micro_batch)
        path.write_text(json.dumps(to_dict(each)))
        command = [sys.executable]
        if engine == "torchrun":
            command += [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={workers}",
            ]
        command += [str(program), engine, str(workers), str(tmp_path / name), str(path)]
        mark = uuid.uuid4().hex
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MIMFLOW_TEST_MARK": mark}
        with (tmp_path / f"{name}.log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return process, mark

    return function


def finished(tmp_path, start, engine, workers, name, **options):
    """Run to the end; return the fingerprint of the last checkpoint of either phase."""
    process, _ = start(engine, workers, name, **options)
    assert process.wait(900) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]
    return fingerprints(tmp_path / name)


def fingerprints(run_dir):
    return [fingerprint(run_dir / "checkpoints" / f"step_{step:08d}") for step in (JOINT, ALL)]


def last_step(run_dir):
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def processes(mark, title=""):
    """Return the processes that inherited a mark, by what their command lines contain."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark.encode() in (path / "environ").read_bytes()
            if marked and title.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def killed(tmp_path, start, engine, workers, name, step):
    """Kill all processes of a run, as a machine that goes down does, at a step or soon after."""
    process, mark = start(engine, workers, name)
    while last_step(tmp_path / name) < step:
        assert process.poll() is None, (tmp_path / f"{name}.log").read_text()[-3000:]
        time.sleep(0.01)
    for each in processes(mark):
        os.kill(each, signal.SIGKILL)
    process.wait()
    assert step <= last_step(tmp_path / name) < ALL


def losses(run_dir):
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_one_worker_learns_the_same_bits_however_it_is_run(tmp_path, start):
    expected = finished(tmp_path, start, "local", 1, "whole")
    draw = random.Random(5)
    for name, first, last in (("joint", 6, JOINT), ("decoder", JOINT + 1, ALL)):
        killed(tmp_path, start, "local", 1, name, draw.randrange(first, last))
        assert finished(tmp_path, start, "local", 1, name) == expected
    assert finished(tmp_path, start, "torchrun", 1, "torchrun") == expected
    assert finished(tmp_path, start, "ray", 1, "ray") == expected


def test_a_ray_worker_killed_on_the_way_changes_no_bit_of_what_two_learn(tmp_path, start):
    expected = finished(tmp_path, start, "torchrun", 2, "torchrun")
    process, mark = start("ray", 2, "ray")
    while last_step(tmp_path / "ray") < 7:
        assert process.poll() is None, (tmp_path / "ray.log").read_text()[-3000:]
        time.sleep(0.05)
    workers = processes(mark, "RayTrainWorker")
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    assert last_step(tmp_path / "ray") < ALL
    assert process.wait(900) == 0, (tmp_path / "ray.log").read_text()[-3000:]
    assert fingerprints(tmp_path / "ray") == expected
    log = (tmp_path / "ray.log").read_text()
    assert log.count("\n") < 12  # ours only
    assert re.search(r"^Worker [01] on \S+ ended: The actor is dead because", log, re.M), log
    assert "All workers have started anew" in log
    assert processes(mark) == []


def test_a_ray_driver_killed_alone_leaves_a_run_that_goes_on_at_once(tmp_path, start):
    expected = finished(tmp_path, start, "local", 1, "whole")
    process, mark = start("ray", 1, "ray")
    while last_step(tmp_path / "ray") < 3:
        assert process.poll() is None, (tmp_path / "ray.log").read_text()[-3000:]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert finished(tmp_path, start, "ray", 1, "ray") == expected
    deadline = time.monotonic() + 120
    while processes(mark):  # Ray itself ends what the dead driver started, in its own time
        assert time.monotonic() < deadline
        time.sleep(1)


def test_four_workers_killed_and_continued_equal_four_under_ray(tmp_path, start):
    killed(tmp_path, start, "torchrun", 4, "torchrun", random.Random(4).randrange(6, JOINT))
    expected = finished(tmp_path, start, "torchrun", 4, "torchrun")
    assert finished(tmp_path, start, "ray", 4, "ray") == expected


def test_losses_depend_on_neither_workers_nor_micro_batches(tmp_path, start):
    finished(tmp_path, start, "local", 1, "one")
    finished(tmp_path, start, "local", 1, "parts", micro_batch=2)
    finished(tmp_path, start, "torchrun", 2, "two")
    finished(tmp_path, start, "torchrun", 4, "four", micro_batch=1)
    one = losses(tmp_path / "one")
    for name in ("parts", "two", "four"):
        other = losses(tmp_path / name)
        for step in range(1, 21):
            assert other[step] == pytest.approx(one[step], rel=1e-6), f"{name}, step {step}"
