"""The storage that accounts use, and its limits."""

from collections import Counter

from common.background import Repeated
from common.contracts.recording import SAMPLE_BYTES, StorageUse
from common.errors import MonitoringFailed, RateLimited
from common.postgres import Database

# Time after which other replicas see the samples that this one stored; a replica that dies loses
# this much of the count.
FLUSH_INTERVAL_S = 2.0
# Accounts whose totals are cached; beyond this the cache is cleared.
MAX_CACHED_ACCOUNTS = 20_000
# Time in which the sweep merges about ten thousand staged samples.
RETRY_STAGING_S = 5

FLUSH = """
insert into usage (account, samples)
select account, count from unnest(%s::text[], %s::bigint[]) as s(account, count) order by 1
on conflict (account) do update set samples = usage.samples + excluded.samples
returning account, samples
"""
READ = "select samples, staged from usage where account = %s"
SERIES = "select count(*) from series where account = %s"


class Usage:
    """The count of samples of each account, cached and flushed periodically.

    Args:
        max_bytes: how many bytes an account may store.
        max_staged: how many late samples of an account may wait to be merged.
    """

    def __init__(self, database: Database, max_bytes: int, max_staged: int) -> None:
        self.database = database
        self.max_bytes = max_bytes
        self.max_staged = max_staged
        self._stored: dict[str, int] = {}
        self._unflushed: Counter[str] = Counter()
        self.flushes = Repeated(self.flush, FLUSH_INTERVAL_S)

    async def check(self, account: str, count: int, *, late: bool) -> None:
        """Refuse samples that exceed an account's storage.

        Raises:
            MonitoringFailed: the account's storage is full.
            RateLimited: too many late samples of the account wait to be merged.
        """
        if late or account not in self._stored:
            self._stored[account], staged = await self._read(account)
            if late and staged + count > self.max_staged:
                raise RateLimited(
                    f"too many samples older than a day are still being merged: {staged:,} of at"
                    f" most {self.max_staged:,}; retry in {RETRY_STAGING_S} s",
                    retry_after=RETRY_STAGING_S,
                    limit=self.max_staged,
                )
        used = self._used(account)
        if used + count * SAMPLE_BYTES > self.max_bytes:
            # Samples may have expired, or have been deleted through another replica.
            self._stored[account], _ = await self._read(account)
            used = self._used(account)
        if used + count * SAMPLE_BYTES > self.max_bytes:
            raise MonitoringFailed(
                f"the account's storage is full: {used:,} of {self.max_bytes:,} bytes are used,"
                f" and these samples need {count * SAMPLE_BYTES:,}; delete samples, ask the"
                " operator for more, or wait until old samples expire",
                reason="storage_full",
                limit=self.max_bytes,
            )

    def _used(self, account: str) -> int:
        return max(self._stored[account] + self._unflushed[account], 0) * SAMPLE_BYTES

    def forget(self, account: str) -> None:
        """Evict an account's total, since samples were deleted."""
        self._stored.pop(account, None)

    def forget_all(self) -> None:
        """Evict the totals of all accounts."""
        self._stored.clear()

    def add(self, account: str, count: int) -> None:
        """Count new samples of an account."""
        self._unflushed[account] += count

    async def flush(self) -> None:
        """Add the counts to the totals in the database."""
        if not self._unflushed:
            return
        counts, self._unflushed = self._unflushed, Counter()
        try:
            async with self.database.connection() as connection:
                cursor = await connection.execute(FLUSH, [list(counts), list(counts.values())])
                totals = dict(await cursor.fetchall())
        except BaseException:
            self._unflushed += counts
            raise
        if len(self._stored) > MAX_CACHED_ACCOUNTS:
            self._stored.clear()
        self._stored |= totals

    async def read(self, account: str, max_series: int) -> StorageUse:
        """Read how much an account has stored, and its limits."""
        async with self.database.connection() as connection:
            row = await (await connection.execute(SERIES, [account])).fetchone()
        stored, staged = await self._read(account)
        # Below 0 where samples were deleted before they were counted.
        stored = max(stored + self._unflushed[account], 0)
        return StorageUse(
            samples=stored,
            bytes=stored * SAMPLE_BYTES,
            max_bytes=self.max_bytes,
            staged_samples=staged,
            max_staged_samples=self.max_staged,
            series=row[0] if row else 0,
            max_series=max_series,
        )

    async def _read(self, account: str) -> tuple[int, int]:
        async with self.database.connection() as connection:
            row = await (await connection.execute(READ, [account])).fetchone()
        return (row[0], row[1]) if row else (0, 0)
