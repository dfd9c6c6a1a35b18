"""Bounds on requests under way; requests beyond them get 503 at once.

A request in a queue that only grows is answered long after its caller has given
up. A refusal costs a few microseconds, so admitted requests are served as fast
as ever. No account can take all places, and a request that waits for work
elsewhere takes none.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Unavailable

# Answers held until work elsewhere has finished: each is a connection and a sleeping task. Two
# replicas hold a quarter of the 1,024 requests that the edge carries at once.
MAX_HELD, MAX_HELD_PER_ACCOUNT = 128, 10


class Capacity:
    """Limit of concurrent requests: `max_at_once` in all, `max_per_account` for any account.

    `draining` is set when the gateway is about to stop; held answers are then sent as they are.
    """

    def __init__(self, max_at_once: int, max_per_account: int) -> None:
        self.max_at_once = max_at_once
        self.max_per_account = max_per_account
        self.taken = 0
        self.draining = asyncio.Event()
        self._accounts: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    def take(self) -> None:
        """Reserve capacity for a request; raise Unavailable if none is left."""
        if self.taken >= self.max_at_once:
            raise Unavailable(
                "the server has too many requests under way; try again", retry_after=1
            )
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1

    def take_for(self, account: str) -> None:
        """Reserve capacity within the account's share; raise Unavailable if none is left."""
        used = self._accounts[account]
        if used >= self.max_per_account:
            raise Unavailable(
                f"the account has {used} requests under way; wait until one has finished",
                retry_after=1,
                limit=self.max_per_account,
            )
        self._accounts[account] = used + 1

    def give_back_for(self, account: str) -> None:
        _decrement(self._accounts, account)

    @contextmanager
    def waiting(self, account: str) -> Iterator[bool]:
        """Release a request's capacity while its answer is held; False if too many are held."""
        if self._waiting[account] >= MAX_HELD_PER_ACCOUNT or self._waiting.total() >= MAX_HELD:
            yield False
            return
        self._waiting[account] += 1
        self.give_back()
        self.give_back_for(account)
        try:
            yield True
        finally:
            # Without a check: only the answer remains to be sent.
            self.taken += 1
            self._accounts[account] += 1
            _decrement(self._waiting, account)


def _decrement(counts: Counter[str], account: str) -> None:
    counts[account] -= 1
    if not counts[account]:
        del counts[account]
