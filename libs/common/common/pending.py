"""Pending calls, which are repeated if their replica may hang."""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass

import nats.errors

from common.connection import ERROR_CODE, Connection, ReceivedMessage
from common.errors import NoResponders, Unavailable

# Share of its timeout after which a repeatable call is sent once more, to any replica, and after as
# long again to every replica: the bus still delivers to one that hangs. The lower bound is for
# replicas that are only slow.
REPEAT_AFTER = 1 / 6
MIN_REPEAT_AFTER_S = 0.6
EVERY_REPLICA = "every"  # the last token of the subject that every replica listens to
# At most so many calls are repeated in one round, of this size, and copied: a service may only be
# slow.
MAX_REPEATS = 32
MAX_REPEATED_BYTES = 4 * 1024 * 1024
MAX_COPIES = 3
# Mark of the replies to copies of a call. Each has a subject of its own, since one instance
# may get several, and NATS lets it answer each subject once.
COPY = "-copy"


class ConnectionLost(Unavailable):
    """The connection was lost while the call was under way: it may or may not have been handled."""


@dataclass(slots=True)
class Call:
    """A pending call; `failure` is a failed reply to a copy, used if the original gets none."""

    subject: str
    payload: bytes
    headers: bytes
    reply: "asyncio.Future[ReceivedMessage]"
    timer: asyncio.TimerHandle
    repeat_at: float = math.inf
    pause_s: float = math.inf
    copies: int = 1
    failure: ReceivedMessage | None = None


class PendingCalls:
    """The pending calls of one connection, each with a reply subject of its own in an inbox."""

    def __init__(self, client: Connection) -> None:
        self.client = client
        self._inbox = client.new_inbox()
        self._calls: dict[str, Call] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    async def start(self) -> None:
        await self.client.listen(f"{self._inbox}.*", self._take_reply)

    def send(
        self, subject: str, payload: bytes, headers: bytes, timeout_s: float, *, repeatable: bool
    ) -> "asyncio.Future[ReceivedMessage]":
        """Send a request and return the future of its reply; raises as `Connection.send` does."""
        self._next += 1
        number = str(self._next)
        loop = asyncio.get_running_loop()
        self.client.send(subject, payload, f"{self._inbox}.{number}", headers)
        timer = loop.call_later(timeout_s, self._expire, number, timeout_s)
        call = Call(subject, payload, headers, loop.create_future(), timer)
        if repeatable:
            call.pause_s = max(timeout_s * REPEAT_AFTER, MIN_REPEAT_AFTER_S)
            call.repeat_at = loop.time() + call.pause_s
        self._calls[number] = call
        return call.reply

    def repeat(self) -> None:
        """Repeat calls whose replica may hang."""
        now = asyncio.get_running_loop().time()
        due = [
            (number, call)
            for number, call in self._calls.items()
            if call.repeat_at <= now and call.copies < MAX_COPIES and not call.reply.done()
        ]
        size = 0
        for number, call in due[:MAX_REPEATS]:
            size += len(call.payload)
            if size > MAX_REPEATED_BYTES:
                break
            call.repeat_at = now + call.pause_s
            last = call.copies == MAX_COPIES - 1
            subject = f"{call.subject}.{EVERY_REPLICA}" if last else call.subject
            with suppress(nats.errors.Error, OSError):  # the call fails with its connection
                inbox = f"{self._inbox}.{number}{COPY}{call.copies}"
                self.client.send(subject, call.payload, inbox, call.headers)
                call.copies += 1

    def fail(self) -> None:
        """Fail all pending calls, since their replies can no longer arrive."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.timer.cancel()
            if not call.reply.done():
                call.reply.set_exception(
                    ConnectionLost("the connection to the bus was lost; try again", retry_after=1)
                )

    def _take_reply(self, message: ReceivedMessage) -> None:
        number, copy, _ = message.subject.rpartition(".")[2].partition(COPY)
        call = self._calls.get(number)
        if call is None:
            return
        lost = not message.data and message.headers.get("Status") == "503"
        if copy and (lost or message.headers.get(ERROR_CODE, "") >= "500"):
            # The replica that has the original may only be slow, and still answer well.
            call.failure = call.failure if lost else message
            return
        del self._calls[number]
        call.timer.cancel()
        if call.reply.done():
            return
        if lost:
            unavailable = f"the {_service(call.subject)} service is unavailable; try again"
            call.reply.set_exception(NoResponders(unavailable, retry_after=1))
        else:
            call.reply.set_result(message)

    def _expire(self, number: str, timeout_s: float) -> None:
        call = self._calls.pop(number)
        if call.reply.done():
            return
        if call.failure is not None:
            call.reply.set_result(call.failure)
            return
        late = (
            f"the {_service(call.subject)} service did not answer within {round(timeout_s, 1):g} s"
        )
        call.reply.set_exception(Unavailable(late, retry_after=1))


def _service(subject: str) -> str:
    """Return the name of the service that owns a subject."""
    return subject.split(".")[1] if "." in subject else subject
