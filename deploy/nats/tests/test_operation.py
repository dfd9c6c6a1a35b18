"""The runbook's procedures with three servers: a lost disk, and new passwords for all."""

import asyncio
import shutil

import pytest

from common import bus
from common.bus import NatsBus
from common.contracts.measuring import MEASURE
from common.jobs import STREAM, Jobs
from local.credentials import Credentials
from local.process import Report, wait_until_ready

from .conftest import CONNECTED, Cluster
from .test_keda import ELECTION_TIMEOUT_S, JOBS, once_led, prepare

# Among the long tests, which share no servers with the others.
pytestmark = pytest.mark.long


async def holders(jobs: Jobs) -> set[str]:
    """Return the servers that have all jobs."""
    info = await once_led(lambda: jobs.js.stream_info(STREAM))
    assert info.cluster is not None
    replicas = {str(replica.name) for replica in info.cluster.replicas or [] if replica.current}
    return {str(info.cluster.leader), *replicas}


async def test_a_server_with_an_empty_disk_copies_its_streams_from_the_others(
    cluster: Cluster, control: NatsBus
) -> None:
    jobs = await prepare(control, JOBS)
    led = (await once_led(lambda: jobs.js.stream_info(STREAM))).cluster
    assert led is not None
    # The jobs' leader, unless the test itself is connected to it.
    name = "nats-2" if led.leader in (CONNECTED, None) else led.leader
    lost = cluster.processes[name]
    await asyncio.to_thread(lost.stop)
    shutil.rmtree(cluster.folder / name)
    # With an id: an attempt whose answer got lost is not a second job.
    headers = {"Nats-Msg-Id": "meanwhile"}
    jetstream = control.client.jetstream()
    await once_led(lambda: jetstream.publish(f"{MEASURE.subject}.cpu", b"{}", headers=headers))
    lost.start()
    await asyncio.to_thread(wait_until_ready, [lost], Report())
    async with asyncio.timeout(2 * ELECTION_TIMEOUT_S):
        while name not in await holders(jobs):
            await asyncio.sleep(0.2)
    info = await once_led(lambda: jobs.js.stream_info(STREAM))
    assert info.state.messages == JOBS + 1


async def test_servers_that_restart_together_with_new_passwords_keep_their_jobs(
    cluster: Cluster,
) -> None:
    async with bus.connect(cluster.url("benchmarker"), "benchmarker") as before:
        before.stream_replicas = 3
        await prepare(before, JOBS)
    former = cluster.url("benchmarker")
    for process in cluster.processes.values():
        await asyncio.to_thread(process.stop)
    cluster.users.credentials = Credentials(cluster.folder / "rotated")
    for name, process in cluster.processes.items():
        process.program = cluster.program(name)
        process.start()
    await asyncio.to_thread(wait_until_ready, list(cluster.processes.values()), Report())
    assert cluster.url("benchmarker") != former
    async with bus.connect(cluster.url("benchmarker"), "benchmarker") as again:
        info = await once_led(lambda: Jobs(again).js.stream_info(STREAM))
        assert info.state.messages == JOBS
