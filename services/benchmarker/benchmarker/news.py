"""Progress of runs: published to all listeners, and awaited by callers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nats.errors

from benchmarker.runs import Change
from common.background import Repeated
from common.bus import Bus
from common.contracts import Event, Message
from common.contracts.benchmarking import OVER, PROGRESSED, BenchmarkProgress, Run, RunName
from common.contracts.verification import TRIED
from common.service import listens

# Interval at which a waiting caller's run is read without an event, since an event may be lost.
REREAD_S = 5.0

Found = TypeVar("Found")


class News:
    def __init__(self, bus: Bus, notices: Repeated) -> None:
        """`notices` delivers to the webhooks service; it is woken when a run has finished."""
        self.bus = bus
        self.notices = notices
        self._waiting: dict[str, set[asyncio.Event]] = {}

    async def publish(self, change: Change) -> None:
        """Publish a committed change to listeners and waiting callers."""
        run = change.run
        if run.state in OVER:
            self.notices.wake()
        if change.kind == "verify":
            if run.state in OVER:
                await self._publish(TRIED, RunName(id=run.id), change)
            return
        progress = BenchmarkProgress(
            id=run.id,
            model_id=run.model_id,
            state=run.state,
            done=run.progress.done,
            total=run.progress.total,
        )
        await self._publish(PROGRESSED, progress, change)

    async def _publish(self, event: Event[Any], news: Message, change: Change) -> None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.bus.publish(event, news, change.account, change.run.id)

    @listens(PROGRESSED, shared=False)
    async def note_progress(self, progress: BenchmarkProgress) -> None:
        if progress.state in OVER:
            await self.note_trial(RunName(id=progress.id))

    @listens(TRIED, shared=False)
    async def note_trial(self, run: RunName) -> None:
        """Wake the callers of this replica that wait for a finished run."""
        for event in self._waiting.get(run.id, ()):
            event.set()

    async def until_over(
        self, id: str, seconds: float, read: Callable[[], Awaitable[tuple[Run, Found]]]
    ) -> tuple[Run, Found]:
        """Return the run as soon as it has finished, or its state after `seconds`."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(id, set())
        waiting.add(event)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            while True:
                event.clear()
                run, row = await read()
                left = deadline - loop.time()
                if run.state in OVER or left <= 0:
                    return run, row
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, REREAD_S)):
                        await event.wait()
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(id, None)
