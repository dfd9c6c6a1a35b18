"""Recovery of streams that a NATS server stopped writing because its disk was full."""

import asyncio
import contextlib
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig, StreamSource

log = structlog.get_logger()

# JetStream's code of a purge that failed.
PURGE_FAILED = 10051
# A subject that no message has.
NO_SUBJECT = "no.such.subject"
# Time to copy an archive, and the newest messages that it keeps.
COPY_TIMEOUT_S = 10.0
MAX_ARCHIVE_BYTES = 16 * 2**20


async def mend(js: JetStreamContext, config: StreamConfig, *, archive: bool) -> bool:
    """Recreate an unreplicated stream that its server can no longer write; return whether it did.

    With `archive`, the newest messages stay in an archive; without, all are lost. In a cluster,
    another server writes the stream instead.

    Raises:
        nats.errors.Error: the server did not answer, or its disk is still full.
    """
    if config.num_replicas != 1 or await _is_written(js, str(config.name)):
        return False
    return await _replace(js, config, archive=archive)


async def _is_written(js: JetStreamContext, name: str) -> bool:
    """Return whether the server writes a stream that exists.

    A server whose disk was full writes a stream that failed once only after its restart; until
    then, publications stay unanswered. A purge of no message writes nothing, and fails there too.
    """
    try:
        await js.purge_stream(name, subject=NO_SUBJECT)
    except nats.js.errors.APIError as error:
        if error.err_code == PURGE_FAILED:
            return False
        raise
    return True


async def _replace(js: JetStreamContext, config: StreamConfig, *, archive: bool) -> bool:
    name = str(config.name)
    former = await js.stream_info(name)
    copy = f"{name}_{former.created:%Y%m%d_%H%M%S}" if archive and former.state.messages else ""
    if copy:
        try:
            await _copy(js, config, copy, former.state.messages)
        except BaseException:
            # If another replica has replaced the stream meanwhile, the archive is the only copy.
            with contextlib.suppress(nats.errors.Error):
                if await _is_there(js, name, former.created):
                    await js.delete_stream(copy)
            raise
    if not await _is_there(js, name, former.created):
        return False  # another replica has replaced it
    await js.delete_stream(name)
    await js.add_stream(config)
    log.error("stream replaced: the bus cannot write to it", stream=name, archive=copy)
    return True


async def _is_there(js: JetStreamContext, name: str, created: object) -> bool:
    return (await js.stream_info(name)).created == created


async def _copy(js: JetStreamContext, config: StreamConfig, archive: str, messages: int) -> None:
    kept: dict[str, Any] = {
        "name": archive,
        "storage": StorageType.FILE,
        "max_age": config.max_age,
        "max_bytes": MAX_ARCHIVE_BYTES,
    }
    await js.add_stream(StreamConfig(**kept, sources=[StreamSource(name=str(config.name))]))
    try:
        async with asyncio.timeout(COPY_TIMEOUT_S):
            while (await js.stream_info(archive)).state.last_seq < messages:  # noqa: ASYNC110  (the server sends no event)
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise nats.errors.TimeoutError from error
    # Otherwise the archive would copy the new stream's messages as well.
    await js.update_stream(StreamConfig(**kept))


__all__ = ["mend"]
