"""Background work: unawaited tasks, periodic work, work of a whole process, and retries."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from common.errors import ServiceError

log = structlog.get_logger()

Result = TypeVar("Result")
# Pause between two attempts to reach a dependency that is still starting.
RETRY_PAUSE_S = 0.5
# Longer than any work takes to end in order, such as a last write.
CANCEL_AGAIN_AFTER_S = 10.0


class Background:
    """Unawaited tasks, referenced here so that they are not garbage-collected before they end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start a task and hold a reference to it until it ends; asyncio logs its exception."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._running))


class Repeated:
    """Work that runs again after `every_s` seconds, or as soon as `wake` is called."""

    def __init__(self, work: Callable[[], Awaitable[object]], every_s: float) -> None:
        self.work = work
        self.every_s = every_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Run the work now; if it is running, run it once more afterwards."""
        self._woken.set()

    async def run(self) -> None:
        """Run the work forever; log a failure, and try again in the next round."""
        while True:
            self._woken.clear()
            try:
                await self.work()
            except ServiceError as error:  # a dependency is unavailable
                log.warning(
                    "background work delayed", work=self.work.__qualname__, error=error.message
                )
            except Exception:
                log.exception("background work failed", work=self.work.__qualname__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.every_s):
                    await self._woken.wait()


@asynccontextmanager
async def alongside(work: Callable[[], Awaitable[object]], every_s: float) -> AsyncIterator[None]:
    """Repeat work while the block runs, as `Repeated` does; it is cancelled with the block."""
    repeating = asyncio.create_task(Repeated(work, every_s).run())
    try:
        yield
    finally:
        repeating.cancel()


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks, repeatedly if necessary, until all have ended.

    A cancellation can get lost: `asyncio.wait_for` of Python 3.11, in which a pool of connections
    waits, ignores one that comes together with what it waits for.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_AFTER_S)


@asynccontextmanager
async def lasting(*works: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Future[Any]]:
    """Run coroutines alongside a block, and cancel them when the block ends.

    Yields a future that is done once any coroutine has ended, which none should: the block should
    then end, too. The coroutine's error is raised after the block, so that the process fails and
    is restarted.

    Raises:
        RuntimeError: a work returned; any exception that a work raised.
    """
    tasks = [
        asyncio.create_task(work, name=getattr(work, "__qualname__", repr(work))) for work in works
    ]
    first = asyncio.ensure_future(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
    try:
        yield first
    finally:
        ended = [task for task in tasks if task.done()]
        await end(tasks)
        first.cancel()
    for task in ended:
        log.error("background work ended", work=task.get_name(), error=repr(task.exception()))
        raise task.exception() or RuntimeError(f"background work ended: {task.get_name()}")


async def retry(
    attempt: Callable[[], Awaitable[Result]],
    *errors: type[Exception],
    waiting_for: str,
    pause_s: float = RETRY_PAUSE_S,
    timeout_s: float | None = None,
) -> Result:
    """Repeat `attempt` while it raises one of `errors`, and return its result.

    `waiting_for` names the dependency in the log, which gets a line for each new
    error only: a dependency may be absent for hours. After `timeout_s`, if given,
    the error is raised.
    """
    now = asyncio.get_running_loop().time
    start = now()
    logged = ""
    while True:
        try:
            return await attempt()
        except errors as error:
            if timeout_s is not None and now() - start > timeout_s:
                raise
            reason = str(error).strip() or repr(error)
            if reason != logged:
                log.warning("waiting", dependency=waiting_for, error=reason)
                logged = reason
            await asyncio.sleep(pause_s)
