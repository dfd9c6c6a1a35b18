"""Long work over JetStream: kept until it is done, given up with its reason.

One work-queue stream holds all jobs, and a pull consumer per kind and class of
worker hands each to one worker at a time. A worker that says nothing for
`ACK_WAIT` has lost its job to the next one, so handlers are idempotent by the
job's id. A job that ends its workers, or that nobody can read, goes to the
stream of dead letters with its payload and the reason.

The server's own `max_deliver` is not used: a message beyond it would stay in
the stream, out of everybody's sight. And it counts a worker that stops in good
order like one that was killed. Who gives the work out knows which it was, and
the worker that is told of one loss too many buries the job.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from pydantic_core import to_json

from common.bus import NatsBus
from common.context import Context, current
from common.contracts import Body, Job
from common.errors import Unavailable

log = structlog.get_logger()

STREAM = "JOBS"
DEAD = "DEAD"
# Silence after which a job is somebody else's, in seconds; a living worker
# says three times in that time that it is still at it.
ACK_WAIT = 15.0
# One request for work lasts so long, in seconds. A server that was restarted
# forgets it, so this is also how late the next job may then be seen.
FETCH = 5.0
# The same message published twice within this time counts once, in seconds.
DUPLICATES = 120.0
DEAD_KEPT = 30 * 24 * 3600.0
MOST_BYTES = 256 * 1024 * 1024

REASON = "Lilypad-Reason"
DELIVERIES = "Lilypad-Deliveries"
JOB_ID = "Lilypad-Job-Id"


def consumer_name(job: Job[Any], worker_class: str) -> str:
    """`job.benchmarker.measure` of class `cpu` is drawn from `benchmarker_measure_cpu`."""
    return "_".join((*job.subject.split(".")[1:], worker_class))


class Jobs:
    """The side that gives work out, and looks after it."""

    def __init__(self, bus: NatsBus) -> None:
        self.js = bus.client.jetstream(timeout=5)

    async def prepare(
        self, job: Job[Any], worker_classes: tuple[str, ...], *, ack_wait: float = ACK_WAIT
    ) -> None:
        """Make the streams and consumers that are not there yet; waits for the server."""
        while True:
            try:
                await self._prepare(job, worker_classes, ack_wait)
            except (nats.errors.Error, OSError) as error:
                log.warning("waiting for JetStream", error=repr(error))
                await asyncio.sleep(0.5)
            else:
                return

    async def _prepare(
        self, job: Job[Any], worker_classes: tuple[str, ...], ack_wait: float
    ) -> None:
        await self._stream(
            StreamConfig(
                name=STREAM,
                subjects=["job.>"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                # Beyond its bound it refuses, where it could forget.
                discard=DiscardPolicy.NEW,
                max_bytes=MOST_BYTES,
                duplicate_window=DUPLICATES,
            )
        )
        await self._stream(
            StreamConfig(
                name=DEAD,
                subjects=["dead.>"],
                storage=StorageType.FILE,
                max_age=DEAD_KEPT,
                max_bytes=MOST_BYTES,
                duplicate_window=DUPLICATES,
            )
        )
        for worker_class in worker_classes:
            await self.js.add_consumer(
                STREAM,
                ConsumerConfig(
                    durable_name=consumer_name(job, worker_class),
                    filter_subject=f"{job.subject}.{worker_class}",
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=ack_wait,
                    max_deliver=-1,
                ),
            )

    async def _stream(self, config: StreamConfig) -> None:
        try:
            await self.js.add_stream(config)
        except nats.js.errors.BadRequestError:  # it is there, made by another version
            await self.js.update_stream(config)

    async def publish(self, job: Job[Body], body: Body, worker_class: str, id: str) -> int:
        """Put a job into the queue; the same `id` again within two minutes changes nothing.

        The account stays behind: workers are not told whose work they do.

        Returns:
            The message's number in the stream, by which `holds` and `remove` find it.

        Raises:
            Unavailable: the server did not confirm it.
        """
        headers = Context(request_id=current.get().request_id).to_headers()
        headers |= {"Nats-Msg-Id": id, JOB_ID: id.partition("#")[0]}
        try:
            answer = await self.js.publish(
                f"{job.subject}.{worker_class}",
                to_json(body, by_alias=True),
                stream=STREAM,
                headers=headers,
            )
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the job queue is away", retry_after=1) from error
        return answer.seq

    async def holds(self, sequence: int, id: str) -> bool:
        """Whether the message is in the queue still, waiting or being worked on.

        Raises:
            Unavailable: the server cannot be asked.
        """
        try:
            message = await self.js.get_msg(STREAM, sequence)
        except nats.js.errors.NotFoundError:
            return False
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the job queue is away", retry_after=1) from error
        # A stream that was lost and made again counts from 1 again.
        return (message.headers or {}).get(JOB_ID) == id

    async def remove(self, sequence: int) -> None:
        """Take a message out of the queue, if it is there and can be reached."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.js.delete_msg(STREAM, sequence)


@dataclass
class Delivery:
    """A job as one worker has it."""

    message: Msg
    worker_class: str

    @property
    def id(self) -> str:
        return (self.message.headers or {}).get(JOB_ID, "")

    @property
    def number(self) -> int:
        """1 the first time."""
        return int(self.message.metadata.num_delivered or 1)

    @property
    def age(self) -> float:
        """Seconds since it was put into the queue."""
        return time.time() - self.message.metadata.timestamp.timestamp()

    @property
    def context(self) -> Context:
        return Context.from_headers(self.message.headers)

    async def done(self) -> None:
        """Take it out of the queue. A lost confirmation is a repetition, which finds it done."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.message.ack_sync(timeout=5)

    async def again(self, seconds: float) -> None:
        """Give it back, for anybody to take after a pause."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.message.nak(delay=seconds)

    async def bury(self, bus: NatsBus, reason: str) -> None:
        """Put it among the dead letters, then out of the queue; on the way it is in both.

        Raises:
            nats.errors.Error: the server did not confirm; the job is still in the queue.
        """
        subject = "dead." + self.message.subject.partition(".")[2]
        sequence = self.message.metadata.sequence
        headers = {
            **(self.message.headers or {}),
            "Nats-Msg-Id": f"{self.id}#{sequence.stream if sequence else 0}",
            REASON: " ".join(reason.split()),
            DELIVERIES: str(self.number),
        }
        await bus.client.jetstream().publish(
            subject, self.message.data, stream=DEAD, headers=headers
        )
        log.error("job buried", job=self.id, reason=reason, deliveries=self.number)
        await self.message.term()

    @asynccontextmanager
    async def kept(self, ack_wait: float = ACK_WAIT) -> AsyncIterator[None]:
        """While the block runs, the queue is told that somebody is at it."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(ack_wait / 3)
                with contextlib.suppress(nats.errors.Error, OSError):
                    await self.message.in_progress()

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()


async def pull(bus: NatsBus, job: Job[Any], worker_class: str) -> AsyncIterator[Delivery]:
    """The next job, and the next, for ever; one is taken only when the last is let go of.

    A server that is away, or not made ready yet, is waited for.
    """
    js = bus.client.jetstream()
    subscription = await js.pull_subscribe_bind(consumer_name(job, worker_class), STREAM)
    try:
        while True:
            asked = time.monotonic()
            try:
                [message] = await subscription.fetch(1, timeout=FETCH)
            except (nats.errors.TimeoutError, TimeoutError):
                if time.monotonic() - asked < FETCH / 2:
                    await asyncio.sleep(0.5)  # the server turned it away: it is restarting
                continue
            except (nats.errors.Error, OSError) as error:
                log.warning("waiting for the job queue", error=repr(error))
                await asyncio.sleep(1)
                continue
            yield Delivery(message, worker_class)
    finally:
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()


__all__ = ["ACK_WAIT", "Delivery", "Jobs", "consumer_name", "pull"]
