"""Answers held until work has finished, as `Prefer` (RFC 7240) asks."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from common.errors import Unavailable
from gateway.endpoint import Call

# The edge gives up on a request after 125 s; an answer has to be under way by then.
MAX_WAIT_S = 115.0
# Max time that the service that does the work holds one question, in seconds.
MAX_POLL_S = 15.0
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,9})\b", re.IGNORECASE)
ASYNC = re.compile(r"(?:^|[,;\s])respond-async\b", re.IGNORECASE)
PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`, or `wait=<seconds>`.",
    "schema": {"type": "string"},
    "example": "respond-async",
}

State = TypeVar("State")


def preferred(call: Call) -> float | None:
    """Return the seconds that `Prefer` asks to wait, capped; None without a preference."""
    prefer = call.headers.get(b"prefer", b"").decode("latin-1")
    match = WAIT.search(prefer)
    if match:
        return min(float(match[1]), MAX_WAIT_S)
    return 0.0 if ASYNC.search(prefer) else None


async def until(
    call: Call,
    state: State,
    over: Callable[[State], bool],
    poll: Callable[[float], Awaitable[State]],
    seconds: float,
) -> State:
    """Return the state of the work once it has finished, or after `seconds`.

    Return the present state at once if too many callers wait, or when the gateway drains.
    `poll` asks the service that does the work, which waits for the given seconds.
    """
    if over(state) or seconds <= 0:
        return state
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    draining = asyncio.create_task(call.capacity.draining.wait())
    try:
        with call.capacity.waiting(call.account) as may_wait:
            while may_wait and not over(state) and (left := deadline - loop.time()) > 0:
                polling = asyncio.ensure_future(poll(min(left, MAX_POLL_S)))
                try:
                    await asyncio.wait({polling, draining}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not polling.done():
                        polling.cancel()
                if draining.done() and not polling.done():
                    break  # its address is in the answer, and another replica knows it
                try:
                    state = await polling
                except Unavailable:
                    break  # the work continues without this caller, who finds it at its address
    finally:
        draining.cancel()
    return state
