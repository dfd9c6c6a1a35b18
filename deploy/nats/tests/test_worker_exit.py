"""The exit of a worker that was started on demand."""

import asyncio

import pytest

from benchmarker.settings import WorkerSettings
from benchmarker.worker.__main__ import Worker
from benchmarker.worker.sandbox import Sandbox
from common.bus import NatsBus
from common.contracts.measuring import Announcement

from .conftest import Cluster
from .test_keda import lag, prepare

UNCONFINED = Sandbox((), (), ())
ME = Announcement(worker="w", name="a processor", device_class="cpu", memory=1024, dtypes=[])


async def test_a_worker_exits_after_max_jobs_and_leaves_the_others_in_the_queue(
    cluster: Cluster, control: NatsBus, worker: NatsBus
) -> None:
    # Unreadable jobs: dead-lettered, they count as done.
    await prepare(control, 3)
    await Worker(worker, WorkerSettings(max_jobs=2), ME, UNCONFINED).serve()
    assert await asyncio.to_thread(lag, cluster, cluster.hosts["nats-0"]) == 1


async def test_a_worker_exits_when_idle_but_not_during_a_job(worker: NatsBus) -> None:
    idle = Worker(worker, WorkerSettings(), ME, UNCONFINED)
    await idle.wait_until_idle(0.1)
    async with idle.turn:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(idle.wait_until_idle(0.1), 1.5)
