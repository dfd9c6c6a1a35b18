"""Live metrics and alerts over Socket.IO; a broken connection loses none of them.

Needs the packages of `pip install "lilypad-client[realtime]"`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import AwareDatetime, Field

from lilypad_client.alert_log import AlertLog
from lilypad_client.alerts import Alerts
from lilypad_client.feed import UNAVAILABLE, events, refusal
from lilypad_client.resource import Async
from lilypad_client.result import Result
from lilypad_client.transport import AsyncTransport

if TYPE_CHECKING:
    from lilypad_client import types
    from lilypad_client.connection import Connection

T = TypeVar("T")

# Pause before a subscription is retried that the service could not serve.
AGAIN_S = 1.0


class MetricUpdate(Result):
    """The values recorded for a model at one moment."""

    model_id: str = Field(alias="modelId")
    timestamp: AwareDatetime
    metrics: dict[str, float]
    cursor: str | None = None
    """A position to go on from, in this process or another: `since`."""
    complete: bool = True
    """False: more was missed than is sent again, and some of it is not among the updates before
    this one; `client.metrics.samples` has it."""


async def metric_updates(
    connection: Connection,
    model_id: str,
    metrics: Sequence[str] | None,
    since: datetime | str | None,
) -> AsyncGenerator[MetricUpdate]:
    complete = True
    position = since.astimezone().isoformat() if isinstance(since, datetime) else since
    async with contextlib.aclosing(events(connection)) as feed:
        async for event in feed:
            if event.name == "gap":
                position = event.data["since"]
            elif event.name == "acknowledged":
                if event.data["status"] == "success":
                    position = event.data.get("cursor", position)
                    complete = complete and event.data.get("complete", True)
                    continue
                if event.data["code"] != UNAVAILABLE:
                    raise refusal(event.data)
                await asyncio.sleep(AGAIN_S)
            elif event.name == "metric_update" and event.data["modelId"] == model_id:
                update = MetricUpdate.model_validate({**event.data, "complete": complete})
                complete = True
                position = update.cursor or position
                yield update
                continue
            elif event.name != "connect":
                continue
            body: dict[str, Any] = {"modelId": model_id, "cursor": True}
            if metrics is not None:
                body["metrics"] = list(metrics)
            if position is not None:
                body["since"] = position
            await event.send("subscribe_metrics", body)


async def changed_alerts(
    connection: Connection, model_id: str | None
) -> AsyncGenerator[types.Alert]:
    # A separate transport, since a connection pool belongs to one event loop.
    transport = AsyncTransport(
        connection.key, connection.base_url, connection.account, connection.policy
    )
    log = AlertLog(Alerts[Async](transport), model_id)
    try:
        async with contextlib.aclosing(events(connection)) as feed:
            async for event in feed:
                # Stored before their events are sent, so that lost events are listed too.
                if event.name in {"connect", "gap", "alert"}:
                    for alert in await log.changed_alerts():
                        yield alert
    finally:
        await transport.close()


def blocking(items: AsyncGenerator[T]) -> Generator[T]:
    """Iterate over an async generator in a thread, so that its socket stays alive between items."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="lilypad-realtime", daemon=True)
    thread.start()

    step: asyncio.Task[Any] | None = None

    async def following() -> T:
        nonlocal step
        step = asyncio.current_task()
        return await anext(items)

    async def finish() -> None:
        # An interrupt leaves a step running.
        if step is not None:
            await _end({step})
        await items.aclose()
        await _end(asyncio.all_tasks() - {asyncio.current_task()})

    try:
        while True:
            following_one = asyncio.run_coroutine_threadsafe(following(), loop)
            try:
                item = following_one.result()
            except StopAsyncIteration:
                return
            except BaseException:
                following_one.cancel()
                raise
            yield item
    finally:
        asyncio.run_coroutine_threadsafe(finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(tasks: set[Any]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
