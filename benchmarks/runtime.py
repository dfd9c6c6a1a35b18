"""The service runtime against nats-py's sequential callbacks, with a handler of 5 ms."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable

import nats
import uvloop
from nats.aio.msg import Msg

from benchmarks.report import Report, figure
from common import bus, service
from common.contracts import Message, Rpc
from common.errors import NoResponders
from common.settings import ServiceSettings
from local.stack import Stack

CALLERS = 64
SECONDS = 4.0
HANDLER_SECONDS = 0.005


class Ask(Message):
    text: str


ASK = Rpc("rpc.generator.ask", Ask, Ask)


def measure() -> Report:
    """Measure one answering process, called by 64 callers of another process."""
    report = Report("Service runtime: 5 ms handler, 64 callers, two processes")
    with Stack(servers={"nats"}, services=()) as stack:
        urls = stack.nats.url("generator"), stack.nats.url("gateway")
        own = _serve_and_ask(_runtime, *urls)
        sequential = _serve_and_ask(_sequential, *urls)
    report.add(
        figure(
            "common.service",
            own,
            "requests/s",
            at_least=6000,
            against=("nats-py's callbacks", sequential),
        )
    )
    report.notes.append(
        f"64 callers and 5 ms allow {CALLERS / HANDLER_SECONDS:,.0f} requests/s at most"
    )
    return report


def _serve_and_ask(serve: Callable[[str], None], service_url: str, caller_url: str) -> float:
    process = multiprocessing.get_context("spawn").Process(target=serve, args=[service_url])
    process.start()
    try:
        return uvloop.run(_call(caller_url))
    finally:
        process.terminate()
        process.join()


async def _call(url: str) -> float:
    async with bus.connect(url, "gateway") as connection:
        while True:
            try:
                await connection.call(ASK, Ask(text="x"))
                break
            except NoResponders:
                await asyncio.sleep(0.1)
        done = 0
        end = time.perf_counter() + SECONDS

        async def call_on() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await connection.call(ASK, Ask(text="x"))
                done += 1

        await asyncio.gather(*(call_on() for _ in range(CALLERS)))
        return done / SECONDS


def _runtime(url: str) -> None:
    async def answer(request: Ask) -> Ask:
        await asyncio.sleep(HANDLER_SECONDS)
        return request

    async def main() -> None:
        async with service.connect("generator", ServiceSettings(nats_url=url)) as running:
            await running.answer(ASK, answer)
            await running.run_until_stopped()

    uvloop.run(main())


def _sequential(url: str) -> None:
    async def main() -> None:
        client = await nats.connect(url)

        async def answer(message: Msg) -> None:
            await asyncio.sleep(HANDLER_SECONDS)
            await message.respond(message.data)

        await client.subscribe(ASK.subject, queue="generator", cb=answer)
        await asyncio.Event().wait()

    uvloop.run(main())
