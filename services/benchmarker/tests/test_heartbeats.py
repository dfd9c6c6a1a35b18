"""A worker's heartbeats for a run."""

import asyncio

from benchmarker.worker.control import heartbeat
from common.contracts.measuring import REPORT, Report, ReportReply
from common.errors import Unavailable
from common.testing import MemoryBus


async def test_heartbeats_continue_after_one_that_failed_or_got_no_answer() -> None:
    bus, started, enough = MemoryBus(), 0, asyncio.Event()

    async def receive(_: Report) -> ReportReply:
        nonlocal started
        started += 1
        if started == 1:
            raise Unavailable("control restarts")
        if started == 2:
            raise ValueError("an answer that cannot be read")
        if started == 3:
            await asyncio.Event().wait()  # control hangs
        enough.set()
        return ReportReply(run=True)

    bus.answer(REPORT, receive)
    async with heartbeat(bus, Report(id="bench_1", worker="one/1"), 0.05):
        async with asyncio.timeout(60):
            await enough.wait()
