"""Slots for costly work, at most one per account, so that no account can take them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from common.context import current


class Shares:
    def __init__(self, slots: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        # Locks of the accounts that hold a slot or wait for one.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for costly work during the block, after the account's earlier work."""
        account = current.get().account
        turn = self._turns.get(account)
        if turn is None:
            turn = self._turns[account] = asyncio.Lock()
        async with turn, self._slots:
            yield
