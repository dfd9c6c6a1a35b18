"""Services whose background work has ended."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from local import ports
from local.services import Service
from local.stack import Stack

WORK = {
    "gateway": ("gateway.housekeeping", "keep_tidy"),
    "benchmarker": ("benchmarker.upkeep", "Upkeep.keep"),
    "metrics": ("metrics.rollups", "keep_up"),
    "realtime": ("realtime.heartbeat", "Heartbeat.beat"),
    "webhooks": ("webhooks.sender", "Sender.run"),
}
PROGRAM = """
import asyncio, runpy
import {module}

async def fail(*_, **__):
    await asyncio.sleep(0.2)
    raise OSError("gone")

{module}.{work} = fail
runpy.run_module("{service}", run_name="__main__")
"""


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    """Servers only for this file: its services leave data that would disturb other tests."""
    services = [Service(name, replicas=0, database=True) for name in WORK]
    with Stack(servers={"nats", "postgres"}, services=services) as stack:
        yield stack


@pytest.mark.parametrize("service", WORK)
def test_a_service_whose_background_work_ends_logs_that_and_exits(
    servers: Stack, service: str
) -> None:
    module, work = WORK[service]
    environment = {
        **os.environ,
        "NATS_URL": servers.nats.url(service),
        "HTTP_PORT": str(ports.find(1)[0]),
        "DATABASE_URL": servers.postgres.url(service),
    }
    program = PROGRAM.format(module=module, work=work, service=service)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "background work ended" in done.stdout + done.stderr
    assert "OSError: gone" in done.stderr
