"""A NATS service that runs handlers.

Each request is a task of its own (nats-py would run a subscription's
callbacks one after the other), with at most `at_once` of an endpoint running;
a bounded number waits, and further requests are rejected at once. Stopping
unsubscribes the endpoints, answers everything already received, and only then
disconnects, so that no request is lost.

The service answers `$SRV.PING|INFO|STATS` of NATS ADR-32, so that
`nats micro ls` finds it.
"""

import asyncio
import contextlib
import gc
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import nats.errors
import orjson
import structlog
from nats.aio.subscription import Subscription
from pydantic import ValidationError
from pydantic_core import to_json

from common import bus, logs, probe, tracing, watchdog
from common.background import Background
from common.connection import ERROR, ERROR_CODE, ReceivedMessage, encode
from common.context import Context, current
from common.contracts import Body, Event, Reply, Request, Rpc
from common.errors import INTERNAL, ServiceError, Unavailable
from common.faults import invalid
from common.instruments import Histogram, Instruments, Labels, MetricFamily, histograms
from common.pending import EVERY_REPLICA
from common.settings import ServiceSettings

log = structlog.get_logger()

VERSION = "0.1.0"
# Time for requests under way to finish when a service stops: the longest rpc timeout
# plus a little.
GRACE_S = 20.0

Handler = Callable[[Any, Request], Coroutine[Any, Any, Reply]]
Listener = Callable[[Any, Body], Coroutine[Any, Any, None]]
Function = TypeVar("Function", bound=Callable[..., Any])
# Attribute of a method that holds the contract declared on it.
CONTRACT = "__contract__"


@dataclass(frozen=True)
class Answers:
    """A method's contract: the rpc that it answers, and its bounds."""

    rpc: Rpc[Any, Any]
    at_once: int
    waiting: int


@dataclass(frozen=True)
class Listens:
    """A method's contract: the event that it listens to, in one replica or in all."""

    event: Event[Any]
    shared: bool


def answers(
    rpc: Rpc[Request, Reply], *, at_once: int = 64, waiting: int = 1024
) -> Callable[[Handler[Request, Reply]], Handler[Request, Reply]]:
    """Declare the rpc that a method answers; `Service.serve` puts it on the bus."""
    return _declare(Answers(rpc, at_once, waiting))


def listens(
    event: Event[Body], *, shared: bool = True
) -> Callable[[Listener[Body]], Listener[Body]]:
    """Declare the event that a method listens to; `Service.serve` subscribes it."""
    return _declare(Listens(event, shared))


def _declare(contract: Answers | Listens) -> Callable[[Function], Function]:
    def declare(method: Function) -> Function:
        setattr(method, CONTRACT, contract)
        return method

    return declare


@dataclass
class Endpoint:
    """A subject that is answered, with its statistics since the start."""

    subject: str
    free: asyncio.Semaphore
    max_running: int
    subscription: Subscription | None = None
    running: Background = field(default_factory=Background)
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0
    # By outcome: ok, refused or failed.
    durations: dict[Labels, Histogram] = field(default_factory=histograms)

    def to_info(self) -> dict[str, Any]:
        name = self.subject.rpartition(".")[2]
        queue = self.subject.split(".")[1]
        return {"name": name, "subject": self.subject, "queue_group": queue, "metadata": {}}

    def to_stats(self) -> dict[str, Any]:
        return {
            **self.to_info(),
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.nanoseconds,
            "average_processing_time": self.nanoseconds // max(self.requests, 1),
        }


class Service:
    """Endpoints and listeners of one service on the bus."""

    def __init__(self, name: str, connection: bus.NatsBus) -> None:
        self.name = name
        self.bus = connection
        self.id = secrets.token_hex(8)
        self.started = datetime.now(UTC)
        self.endpoints: list[Endpoint] = []
        self.instruments = Instruments(self._families, connection.families)
        # Readiness checks: whether each dependency is available.
        self.needs: list[Callable[[], bool]] = []
        self._listening: list[Subscription] = []
        self._stopped = asyncio.Event()

    async def serve(self, handlers: object) -> None:
        """Register every method of `handlers` that declares a contract."""
        for name in dir(type(handlers)):
            contract = getattr(getattr(type(handlers), name, None), CONTRACT, None)
            if contract is None:
                continue
            method = getattr(handlers, name)
            if isinstance(contract, Answers):
                bounds = {"at_once": contract.at_once, "waiting": contract.waiting}
                await self.answer(contract.rpc, method, **bounds)
            else:
                await self.listen(contract.event, method, shared=contract.shared)

    async def answer(
        self,
        rpc: Rpc[Request, Reply],
        handler: Callable[[Request], Awaitable[Reply]],
        *,
        at_once: int = 64,
        waiting: int = 1024,
    ) -> None:
        """Answer a contract with a handler, which runs at most `at_once` times concurrently.

        A `ServiceError` that it raises is the reply; any other exception is
        logged and answered as an internal error without details.
        """
        endpoint = Endpoint(rpc.subject, asyncio.Semaphore(at_once), at_once + waiting)

        def receive(message: ReceivedMessage) -> None:
            if len(endpoint.running) >= endpoint.max_running:
                endpoint.errors += 1
                self._refuse(
                    message, Unavailable("too many requests are queued; try again", retry_after=1)
                )
                return
            endpoint.running.start(respond(message))

        async def respond(message: ReceivedMessage) -> None:
            context = Context.from_headers(message.headers)
            current.set(context)  # the task's own copy: nothing to reset
            start, outcome = time.perf_counter_ns(), "ok"
            try:
                with tracing.span(rpc.subject, "server"):
                    async with endpoint.free, _until(context.deadline):
                        request = rpc.request.model_validate_json(message.data, extra="ignore")
                        reply = await handler(request)
                self._reply(message, to_json(reply, by_alias=True))
            except Exception as error:  # noqa: BLE001  (whatever it is, the caller gets an answer)
                answer = _as_answer(error, rpc.subject)
                outcome = "refused" if answer.status < 500 else "failed"
                endpoint.errors += 1
                endpoint.last_error = f"{answer.status}:{answer.message}"
                self._refuse(message, answer)
            endpoint.requests += 1
            took = time.perf_counter_ns() - start
            endpoint.nanoseconds += took
            endpoint.durations[outcome,].observe(took / 1e9)

        self.endpoints.append(endpoint)
        endpoint.subscription = await self.bus.client.listen(rpc.subject, receive, self.name)
        if rpc.repeatable:
            every = f"{rpc.subject}.{EVERY_REPLICA}"
            self._listening.append(await self.bus.client.listen(every, receive))

    async def listen(
        self, event: Event[Body], handler: Callable[[Body], Awaitable[None]], *, shared: bool = True
    ) -> None:
        """Subscribe to an event, which one replica handles (`shared`) or every replica."""
        queue = self.name if shared else ""
        self._listening.append(await self.bus.subscribe(event, handler, queue=queue))

    async def run_until_stopped(self, *ends: asyncio.Future[Any]) -> None:
        """Serve until SIGTERM or SIGINT, or until one of `ends` is done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopped.set)
        with contextlib.suppress(nats.errors.Error, OSError):  # it reconnects by itself
            await self.bus.flush()  # the server knows the endpoints
        settle()
        log.info("ready", endpoints=[endpoint.subject for endpoint in self.endpoints])
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait([stopped, *ends], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()

    async def drain(self) -> None:
        """Unsubscribe, and finish the requests already received."""
        subscriptions = [e.subscription for e in self.endpoints if e.subscription]
        running = [task for e in self.endpoints for task in e.running]
        log.info("draining", running=len(running))
        try:
            async with asyncio.timeout(GRACE_S):
                for subscription in (*subscriptions, *self._listening):
                    await subscription.drain()
                while tasks := [task for e in self.endpoints for task in e.running]:
                    await asyncio.wait(tasks)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("drained incompletely", error=repr(error))

    async def answer_discovery(self) -> None:
        """Answer ADR-32 discovery of all services, of a name, or of one instance."""
        for verb, content in (
            ("PING", self._ping),
            ("INFO", self._info),
            ("STATS", self._stats),
        ):
            receive = self._discovery(content)
            for address in (verb, f"{verb}.{self.name}", f"{verb}.{self.name}.{self.id}"):
                await self.bus.client.listen(f"$SRV.{address}", receive)

    def _discovery(
        self, content: Callable[[], dict[str, Any]]
    ) -> Callable[[ReceivedMessage], None]:
        return lambda message: self._reply(message, orjson.dumps(content()))

    def _refuse(self, message: ReceivedMessage, error: ServiceError) -> None:
        one_line = " ".join(error.message.split())
        headers = {ERROR: one_line, ERROR_CODE: str(error.status)}
        self._reply(message, orjson.dumps(error.to_wire()), encode(headers))

    def _reply(self, message: ReceivedMessage, data: bytes, headers: bytes = b"") -> None:
        if not message.reply:
            return
        try:
            self.bus.client.send(message.reply, data, headers=headers)
        except nats.errors.MaxPayloadError:
            self._refuse(
                message, ServiceError("the answer is too large to be sent; ask for less at once")
            )
        except (nats.errors.Error, OSError) as error:
            # The caller has lost the connection too, and its call has already failed.
            log.warning("reply not sent", error=repr(error))

    def _families(self) -> Iterator[MetricFamily]:
        durations: dict[Labels, Histogram] = {}
        running: dict[Labels, int] = {}
        for endpoint in self.endpoints:
            op = endpoint.subject.partition(".")[2]
            running[op,] = len(endpoint.running)
            durations |= {(op, *outcome): h for outcome, h in endpoint.durations.items()}
        yield MetricFamily(
            "histogram",
            "nats_rpc_handler_duration_seconds",
            "Time to answer a request of the bus, queueing included",
            ("op", "outcome"),
            durations,
        )
        yield MetricFamily(
            "gauge", "nats_rpc_running", "Requests being answered or queued", ("op",), running
        )

    def _identity(self, kind: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": self.name,
            "id": self.id,
            "version": VERSION,
            "metadata": {},
        }

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def _info(self) -> dict[str, Any]:
        endpoints = [endpoint.to_info() for endpoint in self.endpoints]
        return {**self._identity("info"), "description": self.name, "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [endpoint.to_stats() for endpoint in self.endpoints]
        started = self.started.isoformat().replace("+00:00", "Z")
        return {**self._identity("stats"), "started": started, "endpoints": endpoints}


def _until(deadline: float | None) -> asyncio.Timeout:
    """Return a timeout at the caller's deadline, after which the reply is useless."""
    return asyncio.timeout(None if deadline is None else max(deadline - time.time(), 0))


def _as_answer(error: Exception, subject: str) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ValidationError):
        return invalid(error)
    if isinstance(error, TimeoutError):
        return Unavailable(
            "the answer took too long; try again, or ask for less at once", retry_after=1
        )
    log.error("handler failed", subject=subject, exc_info=error)
    return ServiceError(INTERNAL)


def settle() -> None:
    """Exempt everything that startup created from garbage collection.

    A request creates a few hundred objects and no cycles; collecting every
    700 objects took a twentieth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@asynccontextmanager
async def connect(name: str, settings: ServiceSettings) -> AsyncIterator[Service]:
    """Connect a service to the bus; it is drained when the block ends."""
    logs.configure(name, settings.log_level)
    files = settings.nats_password_file, settings.nats_ca_file
    async with bus.connect(settings.nats_url, name, *files) as connection:
        connection.stream_replicas = settings.stream_replicas
        service = Service(name, connection)
        traces = settings.otel_exporter_otlp_endpoint, settings.otel_traces_sampler_arg
        async with (
            tracing.exporting(name, *traces),
            probe.serve(settings.probe_port, connection, service.instruments, service.needs),
            watchdog.watch(),
        ):
            try:
                yield service
            finally:
                await service.drain()
