"""Argon2id in a bounded pool: what one login costs, many at once must not multiply."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from common.errors import Unavailable

# OWASP's minimum for argon2id: 19 MiB, 2 passes, 1 lane; about 30 ms.
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
AT_ONCE = 2
MOST_WAITING = 32


Result = TypeVar("Result")


class Passwords:
    """Hashes and checks passwords, `AT_ONCE` together (2 x 19 MiB), off the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0
        # An unknown address is checked against this, so that it takes as long as a known one.
        self._nobody = HASHER.hash("nobody")

    async def hash(self, password: str) -> str:
        """Raises Unavailable when too many are waiting."""
        return await self._run(HASHER.hash, password)

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether it is the password; with no hash, False after the same time."""
        matches = await self._run(_matches, hashed or self._nobody, password)
        return matches and hashed is not None

    async def _run(self, work: Callable[..., Result], *arguments: str) -> Result:
        if self._waiting >= MOST_WAITING:
            raise Unavailable("too many logins at once; try again", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._waiting -= 1


def _matches(hashed: str, password: str) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except argon2.exceptions.VerificationError:
        return False
