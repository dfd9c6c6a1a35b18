"""Snapshots of JetStream streams and their consumers, in the format of `nats stream backup`."""

import json
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

CHUNK_BYTES = 128 * 1024
# Longest wait for the server's next answer, in seconds.
ANSWER_TIMEOUT_S = 60.0
# Names of the gateway's streams of counters, one for each window.
COUNTERS = "LIMITS_"
# The server's status of a snapshot that was sent completely.
COMPLETE = "204"


class Refused(Exception):
    """A request that JetStream refused; the message is the server's."""


async def save(url: str, folder: Path) -> list[str]:
    """Write a snapshot of each stream on disk, except rate-limit counters; return their names.

    Counters of rate limits expire before a restore.
    """
    client = await _connect(url)
    try:
        streams = await client.jetstream().streams_info()
        names = [str(info.config.name) for info in streams if str(info.config.storage) == "file"]
        names = [name for name in names if not name.startswith(COUNTERS)]
        for name in names:
            await _save(client, name, folder)
    finally:
        await client.close()
    return names


async def restore(url: str, folder: Path) -> list[str]:
    """Recreate the streams of a folder's snapshots; return their names.

    Raises:
        Refused: a stream of that name exists, for example.
    """
    client = await _connect(url)
    names = saved(folder)
    try:
        for name in names:
            await _restore(client, name, folder)
    finally:
        await client.close()
    return names


def saved(folder: Path) -> list[str]:
    """Return the names of the streams whose snapshots are in a folder."""
    return sorted(file.stem for file in folder.glob("*.json"))


async def _connect(url: str) -> Client:
    async def ignore(_: Exception) -> None:
        """Suppress nats-py's log: the caller gets the exception."""

    return await nats.connect(
        url, inbox_prefix="_INBOX.supervisor", allow_reconnect=False, error_cb=ignore
    )


async def _save(client: Client, name: str, folder: Path) -> None:
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    wish = {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES}
    described = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{name}", json.dumps(wish).encode())
    with (folder / f"{name}.snapshot").open("wb") as file:
        while (message := await subscription.next_msg(ANSWER_TIMEOUT_S)).data:
            file.write(message.data)
            if message.reply:  # the server waits until the chunks so far have arrived
                await message.respond(b"")
    status = (message.headers or {}).get("Status", COMPLETE)
    if status != COMPLETE:
        raise Refused(f"the snapshot of {name} ended early: {status}")
    await subscription.unsubscribe()
    about = {key: described[key] for key in ("config", "state")}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1))


async def _restore(client: Client, name: str, folder: Path) -> None:
    about = (folder / f"{name}.json").read_bytes()
    answer = await _ask(client, f"$JS.API.STREAM.RESTORE.{name}", about)
    subject = answer["deliver_subject"]
    with (folder / f"{name}.snapshot").open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            await _ask(client, subject, chunk)
    await _ask(client, subject, b"")


async def _ask(client: Client, subject: str, payload: bytes) -> dict[str, Any]:
    message = await client.request(subject, payload, timeout=ANSWER_TIMEOUT_S)
    answer: dict[str, Any] = json.loads(message.data or b"{}")
    if "error" in answer:
        raise Refused(f"{subject}: {answer['error'].get('description')}")
    return answer
