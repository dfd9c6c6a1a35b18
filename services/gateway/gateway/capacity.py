"""How much is done at once; beyond that the answer is 503, at once.

A request that waits in a queue which only grows is answered when its caller
has long gone. What is refused costs a few microseconds, so those that were
taken are served as fast as ever. No account can take all of it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Unavailable


class Capacity:
    """At most `most` requests at once, and `most_per_account` of any one account."""

    def __init__(self, most: int, most_per_account: int) -> None:
        self.most = most
        self.most_per_account = most_per_account
        self.taken = 0
        self._accounts: Counter[str] = Counter()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises Unavailable when everything is taken."""
        if self.taken >= self.most:
            raise Unavailable("too much is being asked at once; try again", retry_after=1)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    @contextmanager
    def one_of(self, account: str) -> Iterator[None]:
        """Raises Unavailable when the account has taken its share."""
        if self._accounts[account] >= self.most_per_account:
            raise Unavailable(
                f"this account has {self.most_per_account} requests under way; wait for one",
                retry_after=1,
                limit=self.most_per_account,
            )
        self._accounts[account] += 1
        try:
            yield
        finally:
            self._accounts[account] -= 1
            if not self._accounts[account]:
                del self._accounts[account]
