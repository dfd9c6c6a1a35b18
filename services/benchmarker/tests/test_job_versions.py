"""Jobs of other versions: returned to the queue for newer workers, or failed."""

import json
from types import SimpleNamespace
from typing import Any

from benchmarker.settings import WorkerSettings
from benchmarker.worker.__main__ import Worker
from benchmarker.worker.sandbox import Sandbox
from common.contracts.measuring import (
    END,
    JOB_VERSION,
    TAKE,
    Announcement,
    End,
    Received,
    Take,
    Ticket,
)
from common.testing import MemoryBus

ME = Announcement(worker="one", name="none", device_class="cpu", memory=1.0, dtypes=["float32"])
RUN = Ticket(run=True)


class OneDelivery:
    """A fake delivery that records how the worker ends it."""

    def __init__(self, body: dict[str, Any], age_s: float = 0.0) -> None:
        self.id = "bench_1"
        self.age = age_s
        self.message = SimpleNamespace(data=json.dumps(body).encode())
        self.returned: list[float] = []
        self.buried: list[str] = []

    async def release(self, seconds: float) -> None:
        self.returned.append(seconds)

    async def dead_letter(self, _: Any, reason: str) -> None:
        self.buried.append(reason)


async def work(delivery: OneDelivery, ticket: Ticket = RUN) -> list[End]:
    """Make a worker take a delivery; return the ends of runs that it reports."""
    ends: list[End] = []
    bus = MemoryBus()

    async def take(request: Take) -> Ticket:
        assert request.sealing_key
        return ticket

    async def end(reported: End) -> Received:
        ends.append(reported)
        return Received()

    bus.answer(TAKE, take)
    bus.answer(END, end)
    worker = Worker(bus, WorkerSettings(nats_url="nats://none"), ME, Sandbox((), (), ()))
    await worker.work(delivery)
    return ends


async def test_a_job_for_newer_workers_is_returned_to_the_queue() -> None:
    delivery = OneDelivery({"id": "bench_1", "version": JOB_VERSION + 1, "unknown": True})
    assert await work(delivery) == []
    assert delivery.returned
    assert not delivery.buried


async def test_an_unreadable_job_fails_its_run_with_the_reason() -> None:
    delivery = OneDelivery({"id": "bench_1"})
    [end] = await work(delivery)
    assert end.error
    assert (end.id, end.error.status, end.error.reason) == ("bench_1", 500, "unreadable")
    assert "update the workers" in end.error.message
    assert delivery.buried[0].startswith("cannot be read")
    assert not delivery.returned


async def test_an_unreadable_job_whose_run_another_worker_holds_is_returned() -> None:
    delivery = OneDelivery({"id": "bench_1"})
    assert await work(delivery, Ticket(run=False, held=True)) == []
    assert delivery.returned
    assert not delivery.buried


async def test_a_job_for_newer_workers_fails_its_run_after_a_day() -> None:
    delivery = OneDelivery({"id": "bench_1", "version": JOB_VERSION + 1}, age_s=25 * 3600)
    [end] = await work(delivery)
    assert end.error
    assert end.error.reason == "unreadable"
