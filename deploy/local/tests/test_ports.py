"""Ports for servers that are about to start."""

import json
import subprocess
import sys
from contextlib import ExitStack

from local import ports

PROGRAM = "import json, local.ports as p; print(json.dumps(p.find(1000)), flush=True); input()"


def test_concurrent_processes_find_different_ports() -> None:
    all_ports = ports.find(1000)
    with ExitStack() as stack:
        for _ in range(3):
            command = [sys.executable, "-c", PROGRAM]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdout
            all_ports += json.loads(process.stdout.readline())
    assert len(all_ports) == 4000
    assert len(set(all_ports)) == len(all_ports)
