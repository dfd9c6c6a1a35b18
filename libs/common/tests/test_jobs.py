import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from common import bus, jobs, streams
from common.bus import NatsBus
from common.contracts import Job, Message
from common.errors import Unavailable
from common.jobs import DEAD, DELIVERIES, REASON, STREAM, Delivery, Jobs
from integration import small_disk


class Song(Message):
    line: str


SING = Job("job.choir.sing", Song)
# Short, so that an abandoned job is soon redelivered.
ACK_WAIT = 0.5
# A machine that stands still for so long delays heartbeats as well; not every time.
TRIES = 5


@pytest.fixture
async def queue(caller: NatsBus) -> Jobs:
    jobs = Jobs(caller)
    await jobs.prepare(SING, ("cpu", "gpu"), ack_wait=ACK_WAIT)
    return jobs


@pytest.fixture
async def worker(nats_server) -> AsyncIterator[NatsBus]:
    async with bus.connect(nats_server.url, "worker") as connection:
        yield connection


async def take(connection: NatsBus, worker_class: str = "cpu") -> Delivery:
    async for delivery in jobs.pull(connection, SING, worker_class):
        return delivery
    raise AssertionError("never")


async def size_of(queue: Jobs, stream: str = STREAM) -> int:
    return (await queue.js.stream_info(stream)).state.messages


async def test_a_job_reaches_a_worker_of_its_class_and_is_removed_when_acknowledged(
    queue, worker
) -> None:
    await queue.publish(SING, Song(line="la"), "gpu", "one#0")
    await queue.publish(SING, Song(line="li"), "cpu", "two#0")
    delivery = await take(worker, "gpu")
    assert (delivery.id, delivery.number) == ("one", 1)
    assert Song.model_validate_json(delivery.message.data).line == "la"
    await delivery.acknowledge()
    assert await size_of(queue) == 1


async def test_jobs_reach_workers_after_lost_streams_are_declared_again(queue, worker) -> None:
    taking = asyncio.create_task(take(worker))
    await asyncio.sleep(0.2)
    for stream in (STREAM, DEAD):
        await queue.js.delete_stream(stream)
    with pytest.raises(Unavailable):
        await queue.publish(SING, Song(line="la"), "cpu", "one#0")
    assert not queue.declared
    await queue.declare(SING, ("cpu", "gpu"), ack_wait=ACK_WAIT)
    assert queue.declared
    await queue.publish(SING, Song(line="la"), "cpu", "one#1")
    assert (await taking).id == "one"


async def test_a_job_published_twice_is_queued_once(queue) -> None:
    first = await queue.publish(SING, Song(line="la"), "cpu", "one#0")
    assert await queue.publish(SING, Song(line="la"), "cpu", "one#0") == first
    assert await size_of(queue) == 1
    assert await queue.holds(first, "one")
    assert not await queue.holds(first, "another")
    await queue.remove(first)
    assert not await queue.holds(first, "one")


async def test_a_job_without_heartbeats_is_redelivered(queue, worker) -> None:
    await queue.publish(SING, Song(line="la"), "cpu", "one#0")
    assert (await take(worker)).number == 1
    assert (await take(worker)).number == 2


async def test_a_job_with_heartbeats_is_not_redelivered(queue, worker, caller) -> None:
    await queue.publish(SING, Song(line="la"), "cpu", "one#0")
    delivery = await take(worker)
    for _ in range(TRIES):
        number = delivery.number
        async with delivery.heartbeat(ACK_WAIT):
            other = asyncio.create_task(take(caller))
            await asyncio.sleep(4 * ACK_WAIT)
            is_redelivered = other.done()
        delivery = await other  # the heartbeats have stopped
        assert delivery.number > number
        if not is_redelivered:
            return
    raise AssertionError(f"redelivered despite heartbeats, {TRIES} times")


async def test_a_dead_letter_keeps_the_payload_and_the_reason(queue, worker) -> None:
    await queue.publish(SING, Song(line="la"), "cpu", "one#0")
    delivery = await take(worker)
    await delivery.dead_letter(worker, "too high\nfor anybody")
    assert await size_of(queue) == 0
    letter = await queue.js.get_last_msg(DEAD, "dead.choir.sing.cpu")
    assert Song.model_validate_json(letter.data).line == "la"
    assert letter.headers[REASON] == "too high for anybody"
    assert letter.headers[DELIVERIES] == "1"


async def test_jobs_and_workers_survive_a_crash_of_the_server(queue, worker, nats_server) -> None:
    waiting = asyncio.create_task(take(worker))
    sequence = await queue.publish(SING, Song(line="la"), "gpu", "zero#0")
    await asyncio.sleep(0.1)
    nats_server.kill()
    song = Song(line="la")
    answers = await asyncio.gather(
        *(queue.publish(SING, song, "cpu", "one#0") for _ in range(6)),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} == {Unavailable}
    nats_server.start()
    while True:
        try:
            await queue.declare(SING, ("cpu", "gpu"), ack_wait=ACK_WAIT)
            await queue.publish(SING, song, "cpu", "one#0")
        except Unavailable:
            await asyncio.sleep(0.1)
        else:
            break
    assert (await waiting).id == "one"
    assert await queue.holds(sequence, "zero")


async def test_a_job_queue_accepts_jobs_again_once_a_full_disk_has_space(
    tmp_path: Path,
) -> None:
    """The queue is replaced; the server writes to the old one only after a restart."""
    song = Job("job.benchmarker.sing", Song)
    async with (
        small_disk.bus(tmp_path, "16m") as small,
        bus.connect(small.server.url("benchmarker"), "benchmarker") as connection,
    ):
        replicas = one, other = Jobs(connection), Jobs(connection)
        for replica in replicas:
            await replica.prepare(song, ("cpu",))
            replica.js = connection.client.jetstream(timeout=1)

        async def sweep(replica: Jobs) -> int:
            await replica.declare(song, ("cpu",))
            return await replica.publish(song, Song(line="la"), "cpu", "after#0")

        ballast = small_disk.fill(small.disk)
        for replica in replicas:
            with pytest.raises(Unavailable):
                await replica.publish(song, Song(line="la" * 50_000), "cpu", "full#0")
        ballast.unlink()
        async with asyncio.timeout(120):
            while True:
                try:
                    sequence = await sweep(one)
                except Unavailable:
                    with contextlib.suppress(Unavailable):
                        await sweep(other)
                else:
                    break
        await other.declare(song, ("cpu",))
        assert await one.holds(sequence, "after"), "the other replica replaced the new queue"


async def test_dead_letters_are_written_again_after_a_full_disk_and_older_ones_are_archived(
    tmp_path: Path,
) -> None:
    song = Job("job.benchmarker.sing", Song)
    subject = "dead.benchmarker.sing.cpu"
    async with (
        small_disk.bus(tmp_path, "16m") as small,
        bus.connect(small.server.url("benchmarker"), "benchmarker") as connection,
        bus.connect(small.server.url("worker"), "worker") as letters,
        bus.connect(small.server.url("supervisor"), "supervisor") as operator,
    ):
        jobs, kept = Jobs(connection), operator.client.jetstream()
        await jobs.prepare(song, ("cpu",))
        stream = letters.client.jetstream(timeout=1)
        await stream.publish(subject, b"before", stream=DEAD)

        ballast = small_disk.fill(small.disk)
        with pytest.raises(nats.errors.TimeoutError):
            await stream.publish(subject, b"la" * 50_000, stream=DEAD)
        with contextlib.suppress(Unavailable):
            await jobs.declare(song, ("cpu",))
        assert (await kept.get_msg(DEAD, 1)).data == b"before", "nothing is lost meanwhile"
        ballast.unlink()
        async with asyncio.timeout(120):
            while True:  # as the publisher's sweep does
                with contextlib.suppress(Unavailable, nats.errors.Error):
                    await jobs.declare(song, ("cpu",))
                    await stream.publish(subject, b"after", stream=DEAD)
                    break
        [archive] = [
            info.config.name
            for info in await kept.streams_info()
            if info.config.name not in (STREAM, DEAD)
        ]
        for name, expected in ((archive, b"before"), (DEAD, b"after")):
            assert (await kept.get_msg(name, 1)).data == expected
        # A source would be copied within moments; here there is none to wait for.
        archived = await jobs.js.stream_info(archive)
        assert (archived.config.sources, archived.state.messages) == (None, 1)


async def test_a_stream_that_another_replica_has_replaced_meanwhile_is_kept(
    queue: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, copy = queue._dead(), streams._copy

    async def be_overtaken(*arguments: Any) -> None:
        await copy(*arguments)
        await queue.js.delete_stream(DEAD)
        await queue.js.add_stream(config)
        await queue.js.publish("dead.choir.sing.cpu", b"after", stream=DEAD)

    async def never(*_: Any) -> bool:
        return False

    await queue.js.publish("dead.choir.sing.cpu", b"before", stream=DEAD)
    monkeypatch.setattr(streams, "_copy", be_overtaken)
    monkeypatch.setattr(streams, "_is_written", never)
    assert not await streams.mend(queue.js, config, archive=True)
    assert (await queue.js.get_last_msg(DEAD, "dead.choir.sing.cpu")).data == b"after"
