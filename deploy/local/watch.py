"""A live benchmark in a terminal: progress and figures from the socket."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import socketio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

OVER = {"succeeded", "failed", "canceled"}
# How often the run is polled in case the socket missed its end, in seconds.
POLL_INTERVAL_S = 5.0
# How long to wait for figures after the run has ended, in seconds.
LAST_FIGURES_S = 5.0
# Progress is a moving bar, plus a printed line for each of this many parts of it.
LINES = 4
UNITS = {
    "throughput": "samples/s",
    "latency": "ms",
    "memory_usage": "MiB",
    "gpu_memory_usage": "MiB",
    "cost_per_inference": "USD",
}


@dataclass
class Screen:
    """A terminal view that shows and counts the socket's events."""

    run: str
    bar: Progress
    task: TaskID
    start: float = field(default_factory=time.monotonic)
    updates: int = 0
    progress: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    figures: asyncio.Event = field(default_factory=asyncio.Event)
    _shown: tuple[str, int] = ("", 0)

    async def benchmark_progress(self, event: dict[str, Any]) -> None:
        if event["id"] != self.run:
            return
        self.progress += 1
        state, done, total = event["state"], event["done"], event["total"]
        self.bar.update(self.task, description=state, completed=done, total=total or None)
        part = done * LINES // total if total else 0
        if (state, part) != self._shown:
            self._shown = (state, part)
            self._line("progress", f"{state} [dim]{done} of {total}[/]")
        if state in OVER:
            self.over.set()

    async def metric_update(self, event: dict[str, Any]) -> None:
        self.updates += 1
        figures = [
            f"{name} [bold]{event['metrics'][name]:,.4g}[/] {unit}"
            for name, unit in UNITS.items()
            if name in event["metrics"]
        ]
        self._line("metrics", "  ".join(figures))
        if "throughput" in event["metrics"]:
            self.figures.set()

    async def alert(self, event: dict[str, Any]) -> None:
        self._line("alert", f"[yellow]{event['severity']}[/] {event['message']}")

    def _line(self, kind: str, text: str) -> None:
        elapsed = time.monotonic() - self.start
        self.bar.console.print(f"  [dim]{elapsed:5.1f} s {kind:<8}[/] {text}", highlight=False)


def watch(
    url: str,
    key: str,
    http: httpx2.Client,
    run: dict[str, Any],
    console: Console,
    meanwhile: Callable[[], object],
) -> tuple[dict[str, Any], Screen]:
    """Show a run until it ends; return the run and its screen.

    `meanwhile` is called once, as soon as no event can be missed.
    """
    return asyncio.run(_watch(url, key, http, run, console, meanwhile))


async def _watch(
    url: str,
    key: str,
    http: httpx2.Client,
    run: dict[str, Any],
    console: Console,
    meanwhile: Callable[[], object],
) -> tuple[dict[str, Any], Screen]:
    client = socketio.AsyncClient()
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(run["state"], total=run["progress"]["total"] or None)
        screen = Screen(run["id"], bar, task)
        for shown in (screen.benchmark_progress, screen.metric_update, screen.alert):
            client.on(shown.__name__, shown)
        await client.connect(url, auth={"token": key})
        try:
            # Samples recorded since the run was requested come first, then live ones.
            request = {"modelId": run["modelId"], "since": run["createdAt"]}
            answer = await client.call("subscribe_metrics", request)
            if answer["status"] != "success":
                raise RuntimeError(f"subscribe_metrics was answered {answer}")
            await asyncio.to_thread(meanwhile)
            while run["state"] not in OVER:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(screen.over.wait(), POLL_INTERVAL_S)
                polled = await asyncio.to_thread(http.get, f"/v1/api/benchmark/{run['id']}")
                run = polled.json()["data"]
            screen.over.set()
            if run["state"] == "succeeded":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(screen.figures.wait(), LAST_FIGURES_S)
        finally:
            await client.disconnect()
    return run, screen
