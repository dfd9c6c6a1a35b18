"""Snapshots of models, shared among the generator's replicas over the bus.

A snapshot thus outlives its process: while the Hub is unavailable, every replica can serve a model
that any of them has read, even a replica that has just started. The bus is optional: without it,
each replica has only its own snapshots.
"""

import hashlib
import time
from pathlib import Path

import nats.errors
import orjson
import structlog
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from pydantic import TypeAdapter, ValidationError

from common import streams
from common.background import Background
from common.bus import NatsBus, token
from common.errors import NoResponders, Unavailable
from generator.snapshot import Snapshot
from models.dtypes import MIB

log = structlog.get_logger()

STREAM, SUBJECT = "MODELS", "model"
# One day: older snapshots are never served. A snapshot is about 10 kB.
MAX_AGE_S = 24 * 3600.0
MAX_STORE_BYTES = 256 * MIB
# Timeout in seconds; waiting longer for the bus would cost more than it saves.
BUS_TIMEOUT_S = 1.0
# Most pending writes of a replica; snapshots beyond that are not shared.
MAX_UNWRITTEN = 64

KEPT = TypeAdapter(tuple[float, Snapshot])


class SharedSnapshots:
    """Shared snapshots, by requested id and revision.

    Args:
        bus: where the stream is.
        reader: the Hub's address and this server's token; snapshots read from another Hub or with
            another token are kept apart.
    """

    def __init__(self, bus: NatsBus, reader: str) -> None:
        self.bus = bus
        self.version = _version(reader)
        self.writing = Background()

    async def find(self, id: str, revision: str) -> tuple[Snapshot, float] | None:
        """Find a snapshot, and the seconds since the Hub confirmed it to any replica."""
        subject = f"$JS.API.DIRECT.GET.{STREAM}.{self.subject(id, revision)}"
        try:
            reply = await self.bus.request(subject, b"", BUS_TIMEOUT_S)
        except Unavailable:  # no bus, or no stream because nothing was stored yet
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
        """Publish a snapshot that the Hub has just confirmed, in the background."""
        if len(self.writing) >= MAX_UNWRITTEN:
            return
        content = KEPT.dump_json((time.time(), snapshot), by_alias=True)
        self.writing.start(self._write(self.subject(id, revision), content))

    async def _write(self, subject: str, content: bytes) -> None:
        try:
            try:
                reply = await self.bus.request(subject, content, BUS_TIMEOUT_S)
            except NoResponders:
                await self._make_stream()
                reply = await self.bus.request(subject, content, BUS_TIMEOUT_S)
            except Unavailable:
                js = self.bus.client.jetstream(timeout=BUS_TIMEOUT_S)
                if not await streams.mend(js, self._config(), archive=False):
                    raise
                reply = await self.bus.request(subject, content, BUS_TIMEOUT_S)
        except (Unavailable, nats.errors.Error, OSError) as error:
            log.warning("not shared", subject=subject, error=repr(error))
            return
        if "error" in (answer := orjson.loads(reply.data)):
            log.warning("not shared", subject=subject, error=answer["error"])

    def _config(self) -> StreamConfig:
        return StreamConfig(
            name=STREAM,
            num_replicas=self.bus.stream_replicas,
            subjects=[f"{SUBJECT}.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=MAX_AGE_S,
            max_bytes=MAX_STORE_BYTES,
            allow_direct=True,
        )

    async def _make_stream(self) -> None:
        await self.bus.client.jetstream(timeout=BUS_TIMEOUT_S).add_stream(self._config())

    def subject(self, id: str, revision: str) -> str:
        return f"{SUBJECT}.{self.version}.{token(id)}.{token(revision)}"


def _version(reader: str) -> str:
    """Hash `reader` and this package: a snapshot of another version may lack fields."""
    digest = hashlib.sha256(reader.encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
