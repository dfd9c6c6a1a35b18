"""A stack of containers that is terminated: nothing of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

HOLD = """
import time
from images.start import Containers
from local.process import Process, Program, Report

with Containers({}, services=(), servers=()) as stack:
    # Its `runc run` has ended, and the container has not.
    program = Program("worker-1", [], {}, lambda: True)
    stack.processes["worker-1"] = Process(program, stack.home / "log", Report())
    print(stack.container("worker-1"), stack.home, flush=True)
    while True:
        time.sleep(0.1)
"""


def test_the_containers_of_a_terminated_stack_are_ended(tmp_path: Path) -> None:
    runc = tmp_path / "runc"
    runc.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    runc.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        container, home = process.stdout.readline().split()
        assert Path(home).exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "asked").read_text().splitlines() == [f"delete --force {container}"]
    assert not Path(home).exists()
