"""The order in which waiting calls are committed: their accounts take turns.

It is start-time fair queuing (Goyal, Vin and Cheng, "Start-time fair queuing", SIGCOMM 1996): a
call begins, in rows, where the account's calls before it end, and not before the calls that are
being committed. So what an account sends at once delays its own calls rather than those of others.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from metrics.batch import Batch
from metrics.storage import Rows

# Calls that begin within as many rows of each other are ordered by deadline: a group's, so that
# a record need not wait for a backfill.
TURN_ROWS = 20_000


@dataclass(slots=True)
class Pending:
    """A call whose rows are not committed yet."""

    batch: Batch
    rows: Rows
    done: "asyncio.Future[int]"
    deadline: float  # of the caller, in seconds since 1970

    @property
    def account(self) -> str:
        return self.batch.account


class Turns:
    """The accounts' turns, measured in committed rows."""

    def __init__(self) -> None:
        self._now = 0
        self._ends: dict[str, int] = {}  # of each account's calls that were taken

    def order(self, calls: Iterable[Pending]) -> list[Pending]:
        """Return calls in the order of their turns."""
        ends = dict(self._ends)
        turns: list[tuple[int, Pending]] = []
        for call in sorted(calls, key=lambda call: call.deadline):
            begin = max(ends.get(call.account, 0), self._now)
            ends[call.account] = begin + len(call.rows)
            turns.append(((begin - self._now) // TURN_ROWS, call))
        return [call for _, call in sorted(turns, key=lambda turn: turn[0])]

    def take(self, group: Iterable[Pending]) -> None:
        """Count calls that are being committed as turns of their accounts."""
        begins = [self._now]
        for call in group:
            begins.append(max(self._ends.get(call.account, 0), self._now))
            self._ends[call.account] = begins[-1] + len(call.rows)
        self._now = max(begins)
        self._ends = {account: end for account, end in self._ends.items() if end > self._now}
