"""How much is done at once; beyond that the answer is 503, at once.

A request that waits in a queue which only grows is answered when its caller
has long gone. What is refused costs a few microseconds, so those that were
taken are served as fast as ever. No account can take all of it, and who waits
for work that goes on elsewhere takes nothing of it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Unavailable

# Answers that are held until work elsewhere is over: each is a connection and a sleeping task. Two
# replicas hold a quarter of the 1,024 requests that the edge carries at once.
MOST_HELD, MOST_HELD_PER_ACCOUNT = 128, 10


class Capacity:
    """At most `most` requests at once, and `most_per_account` of any one account."""

    def __init__(self, most: int, most_per_account: int) -> None:
        self.most = most
        self.most_per_account = most_per_account
        self.taken = 0
        self._accounts: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    def take(self) -> None:
        """Raises Unavailable when everything is taken."""
        if self.taken >= self.most:
            raise Unavailable("too much is being asked at once; try again", retry_after=1)
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1

    def take_for(self, account: str) -> None:
        """Raises Unavailable when the account has taken its share."""
        taken = self._accounts[account]
        if taken >= self.most_per_account:
            raise Unavailable(
                f"this account has {taken} requests under way; wait for one",
                retry_after=1,
                limit=self.most_per_account,
            )
        self._accounts[account] = taken + 1

    def give_back_for(self, account: str) -> None:
        _less(self._accounts, account)

    @contextmanager
    def waiting(self, account: str) -> Iterator[bool]:
        """A request of the account that is held takes no place; False where too many are held."""
        if self._waiting[account] >= MOST_HELD_PER_ACCOUNT or self._waiting.total() >= MOST_HELD:
            yield False
            return
        self._waiting[account] += 1
        self.give_back()
        self.give_back_for(account)
        try:
            yield True
        finally:
            # Unasked: all that is left to do is to answer.
            self.taken += 1
            self._accounts[account] += 1
            _less(self._waiting, account)


def _less(counts: Counter[str], account: str) -> None:
    counts[account] -= 1
    if not counts[account]:
        del counts[account]
