"""How long a caller wants to wait for work that goes on: `Prefer` (RFC 7240)."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from common.errors import Unavailable
from gateway.endpoint import Call

# The edge gives up on a request after 125 s; an answer has to be under way before.
LONGEST_WAIT = 115.0
# One question to the service that does the work is held so long at most, in seconds.
LONGEST_QUESTION = 15.0
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,9})\b", re.IGNORECASE)
ASYNC = re.compile(r"(?:^|[,;\s])respond-async\b", re.IGNORECASE)
PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`, or `wait=<seconds>`.",
    "schema": {"type": "string"},
}

State = TypeVar("State")


def preferred(call: Call) -> float | None:
    """Seconds that the caller asks to wait, as far as the edge lets it; None: nothing is said."""
    prefer = call.headers.get(b"prefer", b"").decode("latin-1")
    asked = WAIT.search(prefer)
    if asked:
        return min(float(asked[1]), LONGEST_WAIT)
    return 0.0 if ASYNC.search(prefer) else None


async def until(
    call: Call,
    state: State,
    over: Callable[[State], bool],
    look: Callable[[float], Awaitable[State]],
    seconds: float,
) -> State:
    """The work when it is over, or as it is after so long; at once where too many wait already.

    `look` asks the service that does it, which holds the question for the seconds it is given.
    """
    if over(state) or seconds <= 0:
        return state
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with call.capacity.waiting(call.account) as may_wait:
        while may_wait and not over(state) and (left := deadline - loop.time()) > 0:
            try:
                state = await look(min(left, LONGEST_QUESTION))
            except Unavailable:
                break  # it goes on without this caller, who finds it under its address
    return state
