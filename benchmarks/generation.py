"""Time to generate a module, warm and cold, and the lines of code that other tools require.

Callers and bus share the machine's cores with the generator. The comparison of one and two
processes therefore uses new modules, on which a generator spends a hundred times as long as the
caller. `by_hand/` holds the lines that other tools require.
"""

import ast
import asyncio
import itertools
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2

from benchmarks.report import Report, figure
from common import bus
from common.bus import Bus
from common.contracts.generation import GENERATE, GenerateOptions, GenerateRequest
from common.errors import Unavailable
from hub.testing import RunningHub
from integration.caller import Account
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
# Models not requested before.
COLD = "lilypad/tiny-fill-mask"
MODELS = (
    *("lilypad/tiny-text-generation", "lilypad/tiny-image-classification"),
    "lilypad/tiny-feature-extraction",
)
LIMITS = {"RATE_API": "100000000", "RATE_GENERATE": "100000000"}
CALLS = 300
SECONDS = 5.0
CALLERS = 8
PARALLEL = 50
# Seconds after which a generator has failed to start.
START = 60.0
BY_HAND = Path(__file__).parent / "by_hand"


def measure() -> Report:
    report = Report("Generation: /generate through the edge, and the generator on the bus")
    with RunningHub() as hub:
        through_the_edge(report, hub)
        asyncio.run(on_the_bus(report, hub))
    by_hand(report)
    return report


def through_the_edge(report: Report, hub: RunningHub) -> None:
    with Stack(environment={"HF_ENDPOINT": hub.url, **LIMITS}, flood_limit=1_000_000) as stack:
        account = Account(stack.url)
        for _ in range(20):  # until both generators have read the model
            account.generate(MODEL)
        floor = median(lambda: account.http.get("/healthz"))
        warm = median(lambda: account.generate(MODEL))
        together = throughput(lambda: account.generate(MODEL))
        account.http.close()
    health = ("GET /healthz", floor * 1e3)
    report.add(
        figure("warm, through the edge, median", warm * 1e3, "ms", at_most=10, against=health)
    )
    report.add(
        figure(f"warm, through the edge, {CALLERS} callers", together, "modules/s", at_least=100)
    )


def median(call: Callable[[], httpx2.Response]) -> float:
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
        assert answer.status_code == 200, answer.text
    return statistics.median(seconds)


def throughput(call: Callable[[], httpx2.Response]) -> float:
    end = time.perf_counter() + SECONDS

    def call_on(_: int) -> int:
        done = 0
        while time.perf_counter() < end:
            answer = call()
            assert answer.status_code == 200, answer.text
            done += 1
        return done

    with ThreadPoolExecutor(CALLERS) as pool:
        return sum(pool.map(call_on, range(CALLERS))) / SECONDS


async def on_the_bus(report: Report, hub: RunningHub) -> None:
    with nats() as url:
        async with generators(1, url, hub) as caller:
            calls, again = await cold(caller, hub)
            warm = await rate(caller, lambda _: GenerateRequest(model_url=MODEL))
            single = await rate(caller, anew)
        async with generators(2, url, hub) as caller:
            two = await rate(caller, anew)
    report.add(figure("warm, one process", warm, "modules/s", at_least=150))
    report.add(figure("made anew, one process", single, "modules/s"))
    report.add(
        figure(
            "made anew, two processes",
            two,
            "modules/s",
            against=("one process", single),
            ratio_at_least=1.7,
        )
    )
    report.add(figure("Hub calls of a cold module", calls, "calls"))
    report.add(
        figure(
            f"the same for each of {len(MODELS)} models, {PARALLEL} requests at once",
            again,
            "times",
            at_most=1.1,
        )
    )


def anew(number: int) -> GenerateRequest:
    """Build a request that differs from all others in batch size or memory."""
    options = GenerateOptions(batch_size=number % 1024 + 1, memory=f"{8 + number // 1024}GB")
    return GenerateRequest(model_url=MODEL, options=options)


async def rate(caller: Bus, request: Callable[[int], GenerateRequest]) -> float:
    numbers = itertools.count()
    end = time.perf_counter() + SECONDS
    done = 0

    async def call_on() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await caller.call(GENERATE, request(next(numbers)))
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(call_on() for _ in range(CALLERS)))
    return done / (time.perf_counter() - start)


async def cold(caller: Bus, hub: RunningHub) -> tuple[int, float]:
    """Return the Hub calls of a model's first request, and the repeats among concurrent ones."""
    hub.forget()
    await caller.call(GENERATE, GenerateRequest(model_url=COLD))
    calls = len(hub.requests)
    hub.forget()
    requests = [GenerateRequest(model_url=MODELS[n % len(MODELS)]) for n in range(PARALLEL)]
    await asyncio.gather(*(caller.call(GENERATE, request) for request in requests))
    paths = [logged.path for logged in hub.requests]
    return calls, len(paths) / len(set(paths))


@contextmanager
def nats() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    server = subprocess.Popen([program, "-a", "127.0.0.1", "-p", port], stderr=subprocess.DEVNULL)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def processes(count: int, url: str, hub: RunningHub) -> Iterator[None]:
    environment = {**os.environ, "NATS_URL": url, "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "generator"]
    started = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


@asynccontextmanager
async def generators(count: int, url: str, hub: RunningHub) -> AsyncIterator[Bus]:
    """Start `count` processes of the service, and wait until they answer."""
    with processes(count, url, hub):
        async with bus.connect(url, "benchmark") as caller:
            await answer(caller)
            await asyncio.sleep(1.0)  # the other processes start in the same time
            for _ in range(20 * count):
                await caller.call(GENERATE, GenerateRequest(model_url=MODEL))
            yield caller


async def answer(caller: Bus) -> None:
    end = time.perf_counter() + START
    while time.perf_counter() < end:
        try:
            await caller.call(
                GENERATE, GenerateRequest(model_url="lilypad/tiny-token-classification")
            )
        except Unavailable:
            await asyncio.sleep(0.1)
        else:
            return
    raise RuntimeError(f"no generator has answered within {START:g} s")


def by_hand(report: Report) -> None:
    """Report the lines to write before a first inference: ours against other tools'."""
    for file in sorted(BY_HAND.glob("*.md")):
        for task, lines in count_lines(file.read_text(encoding="utf-8")).items():
            name = f"lines to write: {task}"
            report.add(figure(name, 0, "lines", against=(file.stem, lines)))
    report.notes.append(
        "lines to write before the first inference, without blank ones and comments; "
        "ours takes the model's address: benchmarks/by_hand"
    )


def count_lines(text: str) -> dict[str, int]:
    """Count the lines in the code blocks below each heading; parse the Python among them."""
    counts = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        task, _, rest = section.partition("\n")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", rest, re.MULTILINE | re.DOTALL)
        for language, block in blocks:
            if language == "python":
                ast.parse(block)
        written = [line for _, block in blocks for line in block.splitlines()]
        counts[task] = sum(bool(line.strip()) and line.strip()[0] != "#" for line in written)
    return counts
