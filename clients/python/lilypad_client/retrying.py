"""The retry policy, without any I/O.

`attempts` is a generator: it yields steps (send, or wait), receives their outcomes, and returns the
answer. The two clients differ only in how they carry out the steps.
"""

import time
from collections.abc import Generator, Mapping
from typing import IO, Any, NamedTuple, NoReturn

from lilypad_client.errors import APIConnectionError, APIStatusError, APITimeoutError, status_error
from lilypad_client.operation import Request

# The service refused the request or never received it: safe to repeat for any request.
REFUSED = frozenset({408, 429})
# The service may have carried out the request before the answer was lost.
UNCERTAIN = frozenset({502, 503, 504})
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 8.0
# With a longer `Retry-After`, waiting is left to the caller.
MAX_RETRY_AFTER_S = 60.0
# The retry budget: at most ten retries in an outage, then one for every ten answers.
MAX_RETRY_TOKENS, TOKENS_PER_RETRY = 100, 10
# Max bytes of an error body that are parsed, or quoted as text.
MAX_ERROR_BYTES = 1_000_000
# Max seconds of a `Retry-After`: thirty years, which a number in JSON can hold.
MAX_STATED_S = 1e9


class Send(NamedTuple):
    """A step that sends a request; a successful answer's body is written to `sink`, if given."""

    request: Request
    timeout_s: float
    sink: IO[bytes] | None = None


class Wait(NamedTuple):
    seconds: float


class Reply(NamedTuple):
    """A complete answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Lost(Exception):
    """A missing or incomplete answer. `sent`: the service may have received the request."""

    def __init__(self, reason: str, *, sent: bool, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.timed_out = timed_out


class Budget:
    """A bound on the retries of all of a client's calls, so that they do not worsen an outage."""

    def __init__(self) -> None:
        self.tokens = MAX_RETRY_TOKENS

    def earn(self) -> None:
        self.tokens = min(self.tokens + 1, MAX_RETRY_TOKENS)

    def spend(self) -> bool:
        """Spend one retry; return whether the budget allowed it."""
        if self.tokens < TOKENS_PER_RETRY:
            return False
        self.tokens -= TOKENS_PER_RETRY
        return True


class Policy(NamedTuple):
    max_retries: int
    timeout_s: float
    budget: Budget


def attempts(
    request: Request, policy: Policy, sink: IO[bytes] | None = None
) -> Generator[Send | Wait, Reply, Reply]:
    """Send a request until it succeeds, cannot be retried, or reaches the deadline.

    Raises:
        APIStatusError: the last refusal.
        APITimeoutError: the deadline passed.
        APIConnectionError: the connection failed, and may not or could not be retried.
    """
    timeout_s = policy.timeout_s if request.timeout_s is None else request.timeout_s
    deadline = time.monotonic() + timeout_s
    retries, uncertain = 0, False
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise APITimeoutError(f"no answer within {timeout_s:g} s")
        try:
            reply = yield Send(request, left, sink)
        except Lost as lost:
            error: APIStatusError | APIConnectionError = _lost_error(lost, timeout_s)
            again = request.repeatable or not lost.sent
            uncertain |= lost.sent
            wait_s = None
        else:
            if reply.status < 400:
                policy.budget.earn()
                return reply
            wait_s = retry_after(reply.headers)
            error = _refusal(reply, wait_s)
            if _is_own_first_attempt(reply, wait_s, uncertain=uncertain):
                pause_s = max(wait_s or 0.0, FIRST_PAUSE_S)
                if time.monotonic() + pause_s >= deadline:
                    raise error
                yield Wait(pause_s)
                continue
            again = reply.status in REFUSED or (reply.status in UNCERTAIN and request.repeatable)
            uncertain |= reply.status in UNCERTAIN
        pause_s = pause(retries, wait_s)
        if (
            not again
            or retries >= policy.max_retries
            or (wait_s or 0.0) > MAX_RETRY_AFTER_S
            or time.monotonic() + pause_s >= deadline
            or not policy.budget.spend()
        ):
            raise error
        if sink is not None:
            sink.seek(0)
            sink.truncate()
        retries += 1
        yield Wait(pause_s)


def pause(retries: int, wait_s: float | None) -> float:
    """Return the seconds to wait: at least `wait_s` if stated, with jitter."""
    import random  # noqa: PLC0415  (slow to import)

    chance = random.random()  # noqa: S311  (no secret)
    if wait_s:
        return wait_s * (1 + chance / 10)
    return min(FIRST_PAUSE_S * 2.0**retries, MAX_PAUSE_S) * (0.5 + chance / 2)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Parse `Retry-After`, a number of seconds or a date; return 0 for a past date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_STATED_S)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  (slow to import, and rare)

    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def read_json(content: bytes) -> Any:
    """Parse an answer; raises ValueError for anything that is not JSON."""
    import json  # noqa: PLC0415  (the help can do without)

    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_own_first_attempt(reply: Reply, wait_s: float | None, *, uncertain: bool) -> bool:
    """Return whether a conflict is with an earlier attempt of this request, whose answer was lost.

    The service locks the `Idempotency-Key` until the request is done, so waiting costs no retry.
    """
    return uncertain and reply.status == 409 and wait_s is not None


def _lost_error(lost: Lost, timeout_s: float) -> APIConnectionError:
    if lost.timed_out:
        return APITimeoutError(f"no answer within {timeout_s:g} s")
    return APIConnectionError(str(lost))


def _refusal(reply: Reply, wait_s: float | None) -> APIStatusError:
    error = None
    if len(reply.content) <= MAX_ERROR_BYTES:
        try:
            error = read_json(reply.content)["error"]
            if not (isinstance(error["code"], int) and isinstance(error["message"], str)):
                error = None
            elif not isinstance(error.get("details"), dict):
                error["details"] = {}
        except (ValueError, LookupError, TypeError):
            error = None
    text = reply.content[:MAX_ERROR_BYTES].decode("utf-8", "replace")
    return status_error(reply.status, error, reply.headers, text, wait_s)
