"""Handles of long-running jobs: wait, follow, cancel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from lilypad_client.errors import JobTimeoutError
from lilypad_client.resource import Emit, Flow, Items, Mode, Resource, operation, stream
from lilypad_client.retrying import Wait

if TYPE_CHECKING:
    from lilypad_client.connection import Connection

T = TypeVar("T")

OVER = frozenset({"succeeded", "failed", "canceled"})
# Seconds for which the service may hold an answer, and how much longer the client waits for it.
HOLD_S, GRACE_S = 50, 10
# Pauses between two polls of a job, which grow, since long jobs change slowly.
FIRST_LOOK_S, MAX_LOOK_S, LOOK_GROWTH = 0.5, 5.0, 1.5


class Work(Protocol[T]):
    """Operations on one kind of job: look-up, cancel, state, outcome."""

    def get(self, id: str, hold_s: int) -> Flow[T]: ...

    def cancel(self, id: str) -> Flow[T]: ...

    def state(self, latest: T) -> str: ...

    def check(self, latest: T) -> None:
        """Raise the job's error if it failed."""


class Job(Resource[Mode], Generic[Mode, T]):
    """A job that the service runs, whether or not a client waits for it.

    `latest` is the job when last fetched.
    """

    def __init__(self, connection: Connection, work: Work[T], id: str, latest: T) -> None:
        super().__init__(connection)
        self.id = id
        self.latest = latest
        self._work = work

    @property
    def state(self) -> str:
        """The state when last fetched: `queued`, `running`, `succeeded`, `failed` or `canceled`."""
        return self._work.state(self.latest)

    @operation
    def refresh(self) -> Flow[T]:
        """Fetch the job's current state."""
        return self._poll(0)

    @operation
    def cancel(self) -> Flow[T]:
        """Cancel the job; a finished job is unchanged."""
        return self._note(self._work.cancel(self.id))

    @operation
    def wait(self, wait_timeout: float | None = None) -> Flow[T]:
        """Wait until the job has finished and return its result.

        Args:
            wait_timeout: seconds after which it is canceled; None: as long as it takes.

        Raises:
            JobTimeoutError: it did not finish in time, and was canceled.
            APIStatusError: it failed, or was canceled; `code` and `details["reason"]` say why.
        """
        return self._wait_until_finished(wait_timeout)

    @stream
    def progress(self) -> Items[T]:
        """Yield the job after each change, for the last time when it has finished."""
        pause_s, shown = FIRST_LOOK_S, None
        while True:
            # Again after each: the caller may have canceled the job meanwhile.
            while (answer := _answer(self.latest)) != shown:
                shown = answer
                yield Emit(self.latest)
            if self.state in OVER:
                return
            yield Wait(pause_s)
            yield from self._poll(0)
            pause_s = min(pause_s * LOOK_GROWTH, MAX_LOOK_S)

    def _wait_until_finished(self, wait_timeout: float | None) -> Flow[T]:
        deadline = None if wait_timeout is None else time.monotonic() + wait_timeout
        pause_s = FIRST_LOOK_S
        while self.state not in OVER:
            left = HOLD_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                yield from self._note(self._work.cancel(self.id))
                if self.state in OVER - {"canceled"}:
                    break
                raise JobTimeoutError(
                    f"{self.id} did not finish within {wait_timeout:g} s; it was canceled"
                )
            began = time.monotonic()
            yield from self._poll(max(1, int(min(left, HOLD_S))))
            if self.state not in OVER and time.monotonic() - began < pause_s:
                # The service holds too many answers of this account already.
                yield Wait(pause_s)
                pause_s = min(pause_s * LOOK_GROWTH, MAX_LOOK_S)
        self._work.check(self.latest)
        return self.latest

    def _poll(self, hold_s: int) -> Flow[T]:
        return self._note(self._work.get(self.id, hold_s))

    def _note(self, flow: Flow[T]) -> Flow[T]:
        self.latest = yield from flow
        return self.latest


def _answer(latest: Any) -> dict[str, Any]:
    """Return every field of the answer: `Module.__eq__` compares only the files."""
    answer: dict[str, Any] = latest.to_dict()
    return answer
