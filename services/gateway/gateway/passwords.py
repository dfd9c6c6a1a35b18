"""Argon2id in a bounded pool, so that concurrent logins cost a bounded amount of memory."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from zxcvbn import zxcvbn

from common.errors import InvalidRequest, Unavailable

# OWASP's minimum for argon2id: 19 MiB, 2 passes, 1 lane; about 30 ms.
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
MAX_CONCURRENT = 2
MAX_WAITING = 32
# zxcvbn's scores are powers of ten of guesses: a score below 2 means fewer than a million, which
# includes the 30,000 most common passwords and their variations. It reads at most this many
# characters.
MIN_SCORE, MAX_SCORED_CHARACTERS = 2, 72


Result = TypeVar("Result")


class Passwords:
    """A pool that hashes and checks passwords, `MAX_CONCURRENT` at once (19 MiB each)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="argon2")
        self._waiting = 0
        # An unknown address is checked against this, so that it takes as long as a known one.
        self._nobody = HASHER.hash("nobody")

    async def hash(self, password: str) -> str:
        """Hash a password; raise Unavailable when too many are waiting."""
        return await self._run(HASHER.hash, password)

    async def refuse_common(self, field: str, password: str, email: str) -> None:
        """Raise InvalidRequest for a password that is easily guessed.

        `field` is the public field that holds it; parts of the account's address make poor ones.
        """
        score = await self._run(_score, password, email)
        if score < MIN_SCORE:
            fault = (
                "is too easy to guess; choose one that is not common, such as four unrelated words"
            )
            fields = [{"path": field, "message": fault}]
            raise InvalidRequest(f"{field}: {fault}", fields=fields)

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Return whether the password matches; without a hash, False after the same time."""
        matches = await self._run(_matches, hashed or self._nobody, password)
        return matches and hashed is not None

    async def _run(self, work: Callable[..., Result], *arguments: str) -> Result:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many logins at once; try again", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._waiting -= 1


def _score(password: str, email: str) -> int:
    """Rate a password from 0 to 4; the account's address and its parts count as easy to guess."""
    known = [email, *email.split("@"), "lilypad"]
    return int(zxcvbn(password[:MAX_SCORED_CHARACTERS], user_inputs=known)["score"])


def _matches(hashed: str, password: str) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except argon2.exceptions.VerificationError:
        return False
