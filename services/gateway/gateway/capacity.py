"""How much is done at once; beyond that the answer is 503, at once.

A request that waits in a queue which only grows is answered when its caller
has long gone. What is refused costs a few microseconds, so those that were
taken are served as fast as ever. No account can take all of it.
"""

from common.errors import Unavailable


class Capacity:
    """At most `most` requests at once, and `most_per_account` of any one account."""

    def __init__(self, most: int, most_per_account: int) -> None:
        self.most = most
        self.most_per_account = most_per_account
        self.taken = 0
        self._accounts: dict[str, int] = {}

    def take(self) -> None:
        """Raises Unavailable when everything is taken."""
        if self.taken >= self.most:
            raise Unavailable("too much is being asked at once; try again", retry_after=1)
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1

    def take_for(self, account: str) -> None:
        """Raises Unavailable when the account has taken its share."""
        taken = self._accounts.get(account, 0)
        if taken >= self.most_per_account:
            raise Unavailable(
                f"this account has {taken} requests under way; wait for one",
                retry_after=1,
                limit=self.most_per_account,
            )
        self._accounts[account] = taken + 1

    def give_back_for(self, account: str) -> None:
        left = self._accounts[account] - 1
        if left:
            self._accounts[account] = left
        else:
            del self._accounts[account]
