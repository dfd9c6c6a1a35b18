"""What any generator has read of a model, kept on the bus for all of them.

So it outlives the process: a model that one replica has seen is made by every other while the Hub
is away, and by one that was started a moment ago. It only helps. Without the bus a generator
knows what it has read itself.
"""

import asyncio
import hashlib
import time
from pathlib import Path

import nats.errors
import orjson
import structlog
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from pydantic import TypeAdapter, ValidationError

from common.bus import NatsBus, NoResponders, token
from common.errors import Unavailable
from generator.snapshot import Snapshot

log = structlog.get_logger()

STREAM, SUBJECT = "MODELS", "model"
# A day, after which nobody would be given it any more; a snapshot is some 10 kB.
LONGEST = 24 * 3600.0
MOST_BYTES = 256 * 2**20
# Seconds: a bus that takes longer is of no help.
BUDGET = 1.0
# What a replica has not written yet, at most; beyond it nothing more is shared.
MOST_UNWRITTEN = 64

KEPT = TypeAdapter(tuple[float, Snapshot])


class Shared:
    """Snapshots by the id and revision that were asked for.

    Args:
        bus: where the stream is.
        reader: the Hub's address and this server's token; what others are told of an id, or may
            read, is something else.
    """

    def __init__(self, bus: NatsBus, reader: str) -> None:
        self.bus = bus
        self.version = _version(reader)
        self.writing: set[asyncio.Task[None]] = set()

    async def find(self, id: str, revision: str) -> tuple[Snapshot, float] | None:
        """And the seconds since the Hub confirmed it, to whichever replica."""
        subject = f"$JS.API.DIRECT.GET.{STREAM}.{self.subject(id, revision)}"
        try:
            reply = await self.bus.request(subject, b"", BUDGET)
        except Unavailable:  # the bus, or the stream: nothing was kept yet
            return None
        if reply.headers.get("Status"):
            return None
        try:
            when, snapshot = KEPT.validate_json(reply.data)
        except ValidationError:
            log.exception("not a snapshot", subject=subject)
            return None
        return snapshot, max(time.time() - when, 0.0)

    def keep(self, id: str, revision: str, snapshot: Snapshot) -> None:
        """In the background: the Hub has just confirmed it."""
        if len(self.writing) >= MOST_UNWRITTEN:
            return
        content = KEPT.dump_json((time.time(), snapshot), by_alias=True)
        task = asyncio.create_task(self._write(self.subject(id, revision), content))
        self.writing.add(task)
        task.add_done_callback(self.writing.discard)

    async def _write(self, subject: str, content: bytes) -> None:
        try:
            try:
                reply = await self.bus.request(subject, content, BUDGET)
            except NoResponders:
                await self._make_stream()
                reply = await self.bus.request(subject, content, BUDGET)
        except (Unavailable, nats.errors.Error, OSError) as error:
            log.warning("not shared", subject=subject, error=repr(error))
            return
        if "error" in (answer := orjson.loads(reply.data)):
            log.warning("not shared", subject=subject, error=answer["error"])

    async def _make_stream(self) -> None:
        config = StreamConfig(
            name=STREAM,
            subjects=[f"{SUBJECT}.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=LONGEST,
            max_bytes=MOST_BYTES,
            allow_direct=True,
        )
        await self.bus.client.jetstream(timeout=BUDGET).add_stream(config)

    def subject(self, id: str, revision: str) -> str:
        return f"{SUBJECT}.{self.version}.{token(id)}.{token(revision)}"


def _version(reader: str) -> str:
    """Also of this code: what another one has read of a model may lack what this one needs."""
    digest = hashlib.sha256(reader.encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
