"""Turns handlers into a running NATS service.

Each request runs as a task of its own (nats-py would run a subscription's
callbacks one after the other), at most `at_once` of an endpoint at a time; a
bounded number waits, and what is beyond that is refused at once. Stopping
takes the endpoints off the bus first, answers everything already received,
and only then disconnects, so that no request is lost.

The service answers `$SRV.PING|INFO|STATS` as NATS ADR-32 says, so that
`nats micro ls` finds it.
"""

import asyncio
import contextlib
import gc
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import nats.errors
import orjson
import structlog
from nats.aio.subscription import Subscription
from pydantic import ValidationError
from pydantic_core import to_json

from common import bus, logs
from common.connection import Message, encode
from common.context import Context, current
from common.contracts import Body, Event, Reply, Request, Rpc
from common.errors import InvalidRequest, ServiceError, Unavailable
from common.settings import ServiceSettings

log = structlog.get_logger()

VERSION = "0.1.0"
# Requests under way when a service is stopped get this long to finish, in
# seconds: the longest rpc timeout plus a little.
GRACE = 20.0
# Faults of one body that are named; naming one takes 16 microseconds, in which nothing else runs.
MOST_FAULTS = 100


@dataclass
class Endpoint:
    """A subject that is answered, and what has happened on it since the start."""

    subject: str
    free: asyncio.Semaphore
    most: int
    subscription: Subscription | None = None
    running: set[asyncio.Task[None]] = field(default_factory=set)
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0

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
    def __init__(self, name: str, connection: bus.NatsBus) -> None:
        self.name = name
        self.bus = connection
        self.id = secrets.token_hex(8)
        self.started = datetime.now(UTC)
        self.endpoints: list[Endpoint] = []
        self._listening: list[Subscription] = []
        self._stopped = asyncio.Event()

    async def answer(
        self,
        rpc: Rpc[Request, Reply],
        handler: Callable[[Request], Awaitable[Reply]],
        *,
        at_once: int = 64,
        waiting: int = 1024,
    ) -> None:
        """Answer a contract with a handler, at most `at_once` together, as one of the replicas.

        The handler raises `ServiceError`s as answers; anything else it raises
        is logged and answered as an internal error that says nothing more.
        """
        endpoint = Endpoint(rpc.subject, asyncio.Semaphore(at_once), at_once + waiting)

        def receive(message: Message) -> None:
            if len(endpoint.running) >= endpoint.most:
                endpoint.errors += 1
                self._refuse(message, Unavailable("too many requests are waiting", retry_after=1))
                return
            task = asyncio.create_task(respond(message))
            endpoint.running.add(task)
            task.add_done_callback(endpoint.running.discard)

        async def respond(message: Message) -> None:
            context = Context.from_headers(message.headers)
            current.set(context)  # the task's own copy: nothing to reset
            start = time.perf_counter_ns()
            try:
                async with endpoint.free, _until(context.deadline):
                    request = rpc.request.model_validate_json(message.data, extra="ignore")
                    reply = await handler(request)
                self._reply(message, to_json(reply, by_alias=True))
            except Exception as error:  # noqa: BLE001  (whatever it is, the caller gets an answer)
                answer = _as_answer(error, rpc.subject)
                endpoint.errors += 1
                endpoint.last_error = f"{answer.status}:{answer.message}"
                self._refuse(message, answer)
            endpoint.requests += 1
            endpoint.nanoseconds += time.perf_counter_ns() - start

        self.endpoints.append(endpoint)
        endpoint.subscription = await self.bus.client.listen(rpc.subject, receive, self.name)

    async def listen(
        self, event: Event[Body], handler: Callable[[Body], Awaitable[None]], *, shared: bool = True
    ) -> None:
        """Hear an event: one replica of the service each time (`shared`), or every one."""
        queue = self.name if shared else ""
        self._listening.append(await self.bus.subscribe(event, handler, queue=queue))

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopped.set)
        with contextlib.suppress(nats.errors.Error, OSError):  # away: it reconnects by itself
            await self.bus.flush()  # the server knows the endpoints
        settle()
        log.info("ready", endpoints=[endpoint.subject for endpoint in self.endpoints])
        await self._stopped.wait()

    async def drain(self) -> None:
        """Take no more, finish what was taken."""
        subscriptions = [e.subscription for e in self.endpoints if e.subscription]
        running = [task for e in self.endpoints for task in e.running]
        log.info("draining", running=len(running))
        try:
            async with asyncio.timeout(GRACE):
                for subscription in (*subscriptions, *self._listening):
                    await subscription.drain()
                while tasks := [task for e in self.endpoints for task in e.running]:
                    await asyncio.wait(tasks)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("drained incompletely", error=repr(error))

    async def answer_discovery(self) -> None:
        """ADR-32: everyone, those of a name, or one instance is asked."""
        for verb, content in (
            ("PING", self._ping),
            ("INFO", self._info),
            ("STATS", self._stats),
        ):
            receive = self._discovery(content)
            for who in (verb, f"{verb}.{self.name}", f"{verb}.{self.name}.{self.id}"):
                await self.bus.client.listen(f"$SRV.{who}", receive)

    def _discovery(self, content: Callable[[], dict[str, Any]]) -> Callable[[Message], None]:
        return lambda message: self._reply(message, orjson.dumps(content()))

    def _refuse(self, message: Message, error: ServiceError) -> None:
        one_line = " ".join(error.message.split())
        headers = {bus.ERROR: one_line, bus.ERROR_CODE: str(error.status)}
        self._reply(message, orjson.dumps(error.to_wire()), encode(headers))

    def _reply(self, message: Message, data: bytes, headers: bytes = b"") -> None:
        if not message.reply:
            return
        try:
            self.bus.client.send(message.reply, data, headers=headers)
        except nats.errors.MaxPayloadError:
            self._refuse(message, ServiceError("the answer is larger than the bus carries"))
        except (nats.errors.Error, OSError) as error:
            # The caller has been told by its own side of the lost connection.
            log.warning("reply not sent", error=repr(error))

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
    """The time the caller waits: work beyond it is for nobody."""
    return asyncio.timeout(None if deadline is None else max(deadline - time.time(), 0))


def _as_answer(error: Exception, subject: str) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ValidationError):
        return invalid(error)
    if isinstance(error, TimeoutError):
        return Unavailable("the answer took longer than the caller waits", retry_after=1)
    log.error("handler failed", subject=subject, exc_info=error)
    return ServiceError("internal error")


def invalid(error: ValidationError) -> InvalidRequest:
    """A validation error without what was submitted, which may be a secret.

    Of more than `MOST_FAULTS` only the number is told: a small body can hold a hundred thousand.
    """
    faults = error.error_count()
    if faults > MOST_FAULTS:
        return InvalidRequest(f"{faults} values or keys are wrong, too many to name", fields=[])
    fields = [
        # A part may be a key that the caller chose, of any length.
        {"path": ".".join(str(part)[:64] for part in fault["loc"]), "message": fault["msg"]}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = fields[0]
    where = f"{first['path']}: " if first["path"] else ""
    return InvalidRequest(f"{where}{first['message']}", fields=fields)


def settle() -> None:
    """Call when everything is wired: what is there now stays, so garbage is not looked for in it.

    A request makes a few hundred objects and no cycles; looking for some every
    700 objects took a twentieth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@asynccontextmanager
async def connect(name: str, settings: ServiceSettings) -> AsyncIterator[Service]:
    """A service on the bus; drained when the block ends."""
    logs.configure(name, settings.log_level)
    async with bus.connect(settings.nats_url, name) as connection:
        service = Service(name, connection)
        try:
            yield service
        finally:
            await service.drain()
