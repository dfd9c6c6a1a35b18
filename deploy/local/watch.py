"""A benchmark as it happens, in a terminal: progress and figures from the socket."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import httpx2
import socketio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

OVER = {"succeeded", "failed", "canceled"}
# How often the run is looked at in case the socket missed its end, in seconds.
LOOK = 5.0


@dataclass
class Seen:
    """What came over the socket."""

    updates: list[dict[str, Any]] = field(default_factory=list)
    progress: int = 0


def watch(
    url: str, key: str, http: httpx2.Client, run: dict[str, Any], console: Console
) -> tuple[dict[str, Any], Seen]:
    """Show a run until it is over; returns it, and what was seen of it."""
    return asyncio.run(_watch(url, key, http, run, console))


async def _watch(
    url: str, key: str, http: httpx2.Client, run: dict[str, Any], console: Console
) -> tuple[dict[str, Any], Seen]:
    seen, over = Seen(), asyncio.Event()
    client = socketio.AsyncClient()
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        shown = bar.add_task(run["state"], total=run["progress"]["total"] or None)

        async def benchmark_progress(event: dict[str, Any]) -> None:
            if event["id"] == run["id"]:
                seen.progress += 1
                bar.update(
                    shown,
                    description=event["state"],
                    completed=event["done"],
                    total=event["total"] or None,
                )
                if event["state"] in OVER:
                    over.set()

        async def metric_update(event: dict[str, Any]) -> None:
            seen.updates.append(event)

        client.on("benchmark_progress", benchmark_progress)
        client.on("metric_update", metric_update)
        await client.connect(url, auth={"token": key})
        try:
            subscription = {"modelId": run["modelId"]}
            acknowledged = await client.call("subscribe_metrics", subscription)
            if acknowledged != {"status": "success"}:
                raise RuntimeError(f"subscribe_metrics was answered {acknowledged}")
            while run["state"] not in OVER:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), LOOK)
                answer = await asyncio.to_thread(http.get, f"/v1/api/benchmark/{run['id']}")
                run = answer.json()["data"]
            # The figures are recorded as metrics a moment after the run is over.
            for _ in range(50):
                if seen.updates:
                    break
                await asyncio.sleep(0.1)
        finally:
            await client.disconnect()
    return run, seen
