"""Long work over JetStream: queued until acknowledged, or dead-lettered with its reason.

One work-queue stream holds all jobs, and a pull consumer per kind and class of
worker delivers each to one worker at a time. A worker without a heartbeat for
`ACK_WAIT_S` loses its job to the next one, so handlers are idempotent by the
job's id. A job that kills its workers, or that cannot be parsed, goes to the
stream of dead letters with its payload and the reason.

The server's own `max_deliver` is not used: a message beyond it would stay in
the stream unnoticed, and it counts an orderly stop of a worker as a crash. The
publisher counts the crashes; after too many, its reply makes the next worker
dead-letter the job.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
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

from common import streams
from common.background import alongside, retry
from common.bus import NatsBus
from common.context import Context
from common.contracts import Body, Job
from common.errors import Unavailable

log = structlog.get_logger()

STREAM = "JOBS"
DEAD = "DEAD"
# Time without a heartbeat after which a job is redelivered; a live worker sends three.
ACK_WAIT_S = 15.0
# Duration of one request for a job. A restarted server forgets the request, so this is
# also how late the next job may then arrive.
FETCH_S = 5.0
# The same message published twice within this time counts once.
DUPLICATE_WINDOW_S = 120.0
DEAD_LETTER_AGE_S = 30 * 24 * 3600.0
MAX_STREAM_BYTES = 256 * 1024 * 1024

REASON = "Lilypad-Reason"
DELIVERIES = "Lilypad-Deliveries"
JOB_ID = "Lilypad-Job-Id"


def consumer_name(job: Job[Any], worker_class: str) -> str:
    """Name the consumer: `benchmarker_measure_cpu` for `job.benchmarker.measure`, class `cpu`."""
    return "_".join((*job.subject.split(".")[1:], worker_class))


class Jobs:
    """The publisher's side of the job queue."""

    def __init__(self, bus: NatsBus) -> None:
        self.js = bus.client.jetstream(timeout=5)
        self.replicas = bus.stream_replicas
        # Whether the server had all streams and consumers at the last check.
        self.declared = False

    async def prepare(
        self, job: Job[Any], worker_classes: tuple[str, ...], *, ack_wait: float = ACK_WAIT_S
    ) -> None:
        """Create the missing streams and consumers; wait for the server if necessary."""
        await retry(
            lambda: self.declare(job, worker_classes, ack_wait=ack_wait),
            Unavailable,
            waiting_for="JetStream",
        )

    async def declare(
        self, job: Job[Any], worker_classes: tuple[str, ...], *, ack_wait: float = ACK_WAIT_S
    ) -> None:
        """Create the streams and consumers that are missing, or were lost since.

        A queue that a single server cannot write is replaced: its disk was full, after which it
        writes the stream's files only once it restarts. Its messages are lost, as with the disk.
        Dead letters that cannot be written are replaced as well; the newest stay in an archive.

        Raises:
            Unavailable: the server did not confirm them.
        """
        try:
            await self._declare(job, worker_classes, ack_wait)
            if await streams.mend(self.js, self._queue(), archive=False):
                await self._declare(job, worker_classes, ack_wait)
            await self._mend_dead()
            self.declared = True
        except (nats.errors.Error, OSError) as error:
            self.declared = False
            raise Unavailable("the job queue is unavailable; try again", retry_after=1) from error

    async def _declare(
        self, job: Job[Any], worker_classes: tuple[str, ...], ack_wait: float
    ) -> None:
        for config in (self._queue(), self._dead()):
            await self._stream(config)
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

    def _queue(self) -> StreamConfig:
        return StreamConfig(
            name=STREAM,
            num_replicas=self.replicas,
            subjects=["job.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            # A full stream rejects new jobs rather than drop old ones.
            discard=DiscardPolicy.NEW,
            max_bytes=MAX_STREAM_BYTES,
            duplicate_window=DUPLICATE_WINDOW_S,
        )

    def _dead(self) -> StreamConfig:
        return StreamConfig(
            name=DEAD,
            num_replicas=self.replicas,
            subjects=["dead.>"],
            storage=StorageType.FILE,
            max_age=DEAD_LETTER_AGE_S,
            max_bytes=MAX_STREAM_BYTES,
            duplicate_window=DUPLICATE_WINDOW_S,
        )

    async def _mend_dead(self) -> None:
        """Replace unwritten dead letters; after a failure, the next call tries again."""
        try:
            await streams.mend(self.js, self._dead(), archive=True)
        except nats.errors.Error as error:
            log.warning("dead letters cannot be written", error=repr(error))

    async def _stream(self, config: StreamConfig) -> None:
        try:
            await self.js.add_stream(config)
        except nats.js.errors.BadRequestError:  # another version created the stream
            await self.js.update_stream(config)

    async def publish(
        self,
        job: Job[Body],
        body: Body,
        worker_class: str,
        id: str,
        origin: Context | None = None,
    ) -> int:
        """Publish a job; a second one with the same `id` within two minutes is ignored.

        `origin` is the context of the request that asked for the job, without its account: workers
        must not learn whose job they run. It usually differs from the request in progress.

        Returns:
            The message's number in the stream, by which `holds` and `remove` find it.

        Raises:
            Unavailable: the server did not confirm it.
        """
        headers = replace(origin or Context(), account="").to_headers()
        headers |= {"Nats-Msg-Id": id, JOB_ID: id.partition("#")[0]}
        try:
            answer = await self.js.publish(
                f"{job.subject}.{worker_class}",
                to_json(body, by_alias=True),
                stream=STREAM,
                headers=headers,
            )
        except (nats.errors.Error, OSError) as error:
            self.declared = False
            raise Unavailable("the job queue is unavailable; try again", retry_after=1) from error
        return answer.seq

    async def holds(self, sequence: int, id: str) -> bool:
        """Return whether the message is still queued, waiting or being worked on.

        Raises:
            Unavailable: the server did not answer.
        """
        try:
            message = await self.js.get_msg(STREAM, sequence)
        except nats.js.errors.NotFoundError:
            return False
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the job queue is unavailable; try again", retry_after=1) from error
        # A stream that was lost and recreated numbers its messages from 1 again.
        return (message.headers or {}).get(JOB_ID) == id

    async def remove(self, sequence: int) -> None:
        """Remove a message from the queue, if the server is available."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.js.delete_msg(STREAM, sequence)


@dataclass
class Delivery:
    """One delivery of a job to a worker."""

    message: Msg
    worker_class: str

    @property
    def id(self) -> str:
        return (self.message.headers or {}).get(JOB_ID, "")

    @property
    def number(self) -> int:
        """The number of this delivery, from 1."""
        return int(self.message.metadata.num_delivered or 1)

    @property
    def age(self) -> float:
        """Seconds since the job was published."""
        return time.time() - self.message.metadata.timestamp.timestamp()

    @property
    def context(self) -> Context:
        return Context.from_headers(self.message.headers)

    async def acknowledge(self) -> None:
        """Acknowledge the job; if the acknowledgement is lost, a redelivery finds the work done."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.message.ack_sync(timeout=5)

    async def release(self, seconds: float) -> None:
        """Give the job back, to be redelivered to any worker after a pause."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.message.nak(delay=seconds)

    async def dead_letter(self, bus: NatsBus, reason: str) -> None:
        """Publish the job to the dead letters, then remove it from the queue.

        Raises:
            nats.errors.Error: the server did not confirm; the job is still queued.
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
        log.error("job dead-lettered", job=self.id, reason=reason, deliveries=self.number)
        # Confirmed, unlike `term`: a later query no longer counts the job as waiting.
        await self.acknowledge()

    @asynccontextmanager
    async def heartbeat(self, ack_wait: float = ACK_WAIT_S) -> AsyncIterator[None]:
        """Send heartbeats while the block runs."""

        async def beat() -> None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self.message.in_progress()

        async with alongside(beat, ack_wait / 3):
            yield


async def pull(bus: NatsBus, job: Job[Any], worker_class: str) -> AsyncIterator[Delivery]:
    """Yield jobs until cancelled; the next is fetched when the consumer asks for it.

    Waits for a server that is unavailable or not prepared yet.
    """
    js = bus.client.jetstream()
    subscription = await js.pull_subscribe_bind(consumer_name(job, worker_class), STREAM)
    try:
        while True:
            fetch_start_s = time.monotonic()
            try:
                [message] = await subscription.fetch(1, timeout=FETCH_S)
            except (nats.errors.TimeoutError, TimeoutError):
                if time.monotonic() - fetch_start_s < FETCH_S / 2:
                    await asyncio.sleep(0.5)  # the server rejected it: it is restarting
                continue
            except (nats.errors.Error, OSError) as error:
                log.warning("waiting for the job queue", error=repr(error))
                await asyncio.sleep(1)
                continue
            yield Delivery(message, worker_class)
    finally:
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()


__all__ = ["ACK_WAIT_S", "Delivery", "Jobs", "consumer_name", "pull"]
