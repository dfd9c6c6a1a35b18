"""Group commit: calls that arrive during a transaction share the next one.

The call whose caller waits least is the first, so that a record need not wait for a backfill.
Backfills take turns by account, so that none holds up another account.

New samples are published before the caller is answered, on the same connection
to the bus: once a caller has its answer, listeners have been sent the samples,
whatever fails next.
"""

import asyncio
import bisect
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg
import structlog

from common.context import current
from common.contracts.history import arrival_of
from common.contracts.timestamps import now_us
from common.errors import INTERNAL, RateLimited, ServiceError, Unavailable
from common.instruments import Histogram, MetricFamily
from common.postgres import Connection, Database
from metrics import storage
from metrics.arrays import accept_arrays
from metrics.batch import Batch
from metrics.storage import Fresh
from metrics.turns import TURN_ROWS, Pending, Turns

log = structlog.get_logger()

# Rows in one transaction, unless one call alone has more.
MAX_GROUP_ROWS = TURN_ROWS
# Queued rows, about a second's work; beyond it calls are rejected.
MAX_QUEUED_ROWS = 200_000
# The time of smaller groups is that of a commit, not of their rows.
MIN_TIMED_ROWS = 5_000
# A pause leaves the calls that wait this many times the time that their rows usually take, and some
# for the round trips.
MARGIN_FACTOR, MARGIN_S = 2, 0.5
# A longer transaction is given up. The rollups rely on this bound: they leave samples of the last
# minutes alone.
COMMIT_TIMEOUT_S = 5.0
BUSY = "the database is busy or unavailable; try again"
NEXT_WRITER = "select nextval('writers')"
# A group whose commit was not acknowledged is searched for after a second, then at growing
# intervals, for a minute: the server may still be committing it, or be down.
FIRST_LOOK_S, MAX_DOUBT_S = 1.0, 60.0
# Doubtful groups at once: a minute's, one per transaction given up.
MAX_DOUBTFUL = 12

Publish = Callable[[list[Batch], int], Awaitable[None]]


@dataclass(slots=True)
class Doubtful:
    """A group that may have been committed, although no acknowledgement arrived.

    since, next_look: when that was, and when it is looked for again, monotonic.
    """

    group: list[Pending]
    arrival: int
    since: float
    next_look: float


class Writer:
    """Writer of callers' batches, in groups.

    Args:
        publish: called with the new samples of each committed group and their arrival,
            in commit order, before the callers are answered, even if none still waits.
        pause_factor: how long to pause after a group, as a multiple of the time it took, and as
            far as the callers that wait allow. Such a writer stores backfills: accounts take
            turns, and it refuses a call that would wait for longer than its caller.
    """

    def __init__(self, database: Database, publish: Publish, *, pause_factor: float = 0) -> None:
        self.database = database
        self.publish = publish
        self.pause_factor = pause_factor
        self._queue: list[Pending] = []  # by deadline, and of backfills by turn
        self._turns = Turns()
        self._queued_rows = 0
        self._committing: list[Pending] = []
        self._committing_since = 0.0  # monotonic
        self._row_s = 0.0  # time to commit a row of a large group, a running mean
        self._doubtful: deque[Doubtful] = deque(maxlen=MAX_DOUBTFUL)
        self._next_look: asyncio.TimerHandle | None = None
        self._filled = asyncio.Event()
        # The lowest byte of this writer's arrivals; 0 until the database has assigned it.
        self._writer = 0
        self._last_us = 0
        self.rows = 0  # new ones, since the start
        self.commits = Histogram()

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    async def write(self, batch: Batch) -> int:
        """Commit and publish a batch; return how many of its rows were duplicates.

        Raises:
            Unavailable: the database is unavailable, slow or full, or the queue is full.
            RateLimited: the caller would wait too long for other calls of the account.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        pending = Pending(batch, batch.rows(), done, current.get().deadline or math.inf)
        if self.pause_factor:
            self._take_turn(pending)
        elif self._queued_rows > MAX_QUEUED_ROWS:
            raise Unavailable("too many samples are waiting to be stored; try again", retry_after=1)
        else:
            bisect.insort(self._queue, pending, key=lambda waiting: waiting.deadline)
            self._queued_rows += len(pending.rows)
        self._filled.set()
        return await done

    def _take_turn(self, pending: Pending) -> None:
        """Queue a call of a backfill; refuse it if it would outlast its caller.

        Calls after it that would do so now are refused, unless they are the first of their account.
        """
        waiting = (call for call in self._queue if not call.done.cancelled())
        queue = self._turns.order([*waiting, pending])
        spent_s = time.monotonic() - self._committing_since
        wait_s = max(self._row_s * _count(self._committing) - spent_s, 0.0)
        ahead = list(self._committing)
        rows, now, is_after = 0, time.time(), False
        kept = []
        for call in queue:
            is_after = is_after or call is pending
            took_s = self._row_s * len(call.rows)
            too_late = now + wait_s + took_s >= call.deadline or rows > MAX_QUEUED_ROWS
            if is_after and ahead and too_late:
                error = _too_late(call, ahead, wait_s)
                if call is pending:
                    raise error
                if isinstance(error, RateLimited):
                    _fail([call], error)
                    continue
            ahead.append(call)
            kept.append(call)
            rows += len(call.rows)
            wait_s += took_s
        self._queue = kept
        self._queued_rows = rows

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            try:
                # Held while calls keep coming: checking it out again costs a fifth of a commit.
                async with self.database.connection() as connection, _autocommit(connection):
                    self._writer = self._writer or await _next_writer(connection)
                    await self._settle(connection)
                    while group := self._take():
                        start = time.monotonic()
                        await self._commit(connection, group)
                        if self.pause_factor:
                            await self._pause(time.monotonic() - start)
            except ServiceError as error:
                # No connection, or it broke; `_commit` has answered its group.
                log.warning("samples not stored", error=error.message)
                self._drop_cancelled()
            if self._doubtful and self._next_look is None:
                loop = asyncio.get_running_loop()
                self._next_look = loop.call_later(FIRST_LOOK_S, self._look)

    async def _pause(self, took: float) -> None:
        """Pause after a group, until a call that arrives meanwhile can wait no longer."""
        now = time.monotonic()
        end = now + self.pause_factor * took
        while (end := min(end, now + self._pause_s(end - now))) > now:
            self._filled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(end - now):
                    await self._filled.wait()
            now = time.monotonic()

    def _pause_s(self, most: float) -> float:
        """Return how long a pause may be: at most that long, unless callers would time out."""
        pause, rows, now = most, 0, time.time()
        for number, pending in enumerate(self._queue, 1):
            rows += len(pending.rows)
            spare = pending.deadline - now - MARGIN_S - MARGIN_FACTOR * self._row_s * rows
            pause = min(pause, max(spare, 0.0) / number)
        return pause

    def _look(self) -> None:
        self._next_look = None
        self._filled.set()

    async def _settle(self, connection: Connection) -> None:
        """Publish the groups that were committed without an acknowledgement.

        Their callers were told to retry, and a retry finds the rows stored and
        publishes nothing.
        """
        now = time.monotonic()
        due = [doubtful for doubtful in self._doubtful if doubtful.next_look <= now]
        for doubtful in due:
            age = now - doubtful.since
            doubtful.next_look = now + age + FIRST_LOOK_S
            group = doubtful.group
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_S):
                    fresh = await storage.find_committed(
                        connection, [pending.rows for pending in group], doubtful.arrival
                    )
            except TimeoutError as error:
                raise psycopg.OperationalError(str(error)) from error
            if fresh:
                await self._publish(group, fresh, doubtful.arrival)
            if fresh or age > MAX_DOUBT_S:
                self._doubtful.remove(doubtful)

    def _take(self) -> list[Pending]:
        """Dequeue the next group."""
        if not self._queue:
            self._turns = Turns()  # nobody is ahead of anybody
        group: list[Pending] = []
        rows = 0
        while self._queue and (not group or rows + len(self._queue[0].rows) <= MAX_GROUP_ROWS):
            pending = self._queue.pop(0)
            self._queued_rows -= len(pending.rows)
            if pending.done.cancelled():
                continue  # the caller has timed out
            rows += len(pending.rows)
            group.append(pending)
        if self.pause_factor:
            self._turns.take(group)
        return group

    def _drop_cancelled(self) -> None:
        """Dequeue the calls whose callers have timed out."""
        self._queue = [pending for pending in self._queue if not pending.done.cancelled()]
        self._queued_rows = sum(len(pending.rows) for pending in self._queue)
        if self._queue:
            self._filled.set()

    async def _commit(self, connection: Connection, group: list[Pending]) -> None:
        self._last_us = max(now_us(), self._last_us + 1)
        arrival = arrival_of(self._last_us, self._writer)
        calls = [(pending.rows, pending.batch.key) for pending in group]
        self._committing, self._committing_since = group, time.monotonic()
        start = time.perf_counter()
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                fresh = await storage.store(connection, calls, arrival)
        except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError) as error:
            _fail(group, Unavailable(BUSY, retry_after=1))
            if _is_doubtful(error):
                since = time.monotonic()
                self._doubtful.append(Doubtful(group, arrival, since, since))
                # A listener takes a writer's later arrival as proof that it received all earlier
                # ones. This group may be published late, so the groups after it come from a new
                # writer.
                self._writer = 0
            raise psycopg.OperationalError(str(error)) from error
        except Exception:
            if len(group) > 1:
                # One call is at fault; the others must not fail with it.
                try:
                    for pending in group:
                        await self._commit(connection, [pending])
                except psycopg.OperationalError:
                    _fail(group, Unavailable(BUSY, retry_after=1))
                    raise
            else:
                log.exception("samples rejected")
                _fail(group, ServiceError(INTERNAL))
        else:
            self._observe(time.perf_counter() - start, sum(len(rows) for rows, _ in calls))
            self.rows += sum(int(new.sum()) for new in fresh)
            await self._publish(group, fresh, arrival)
            for pending, new in zip(group, fresh, strict=True):
                if not pending.done.done():
                    pending.done.set_result(int((~new).sum()))
        finally:
            self._committing = []

    def _observe(self, took: float, rows: int) -> None:
        self.commits.observe(took)
        if rows >= MIN_TIMED_ROWS:
            of_row = took / rows
            self._row_s += (of_row - self._row_s) / (2 if self._row_s else 1)

    async def _publish(self, group: list[Pending], fresh: list[Fresh], arrival: int) -> None:
        calls = zip(group, fresh, strict=True)
        batches = [pending.batch.only(new) for pending, new in calls if new.any()]
        try:
            await self.publish(batches, arrival)
        except Exception:
            # The samples are stored; a listener that missed them can ask for them.
            log.exception("samples not published")


def _is_doubtful(error: Exception) -> bool:
    """Whether a group may have been committed in spite of the error."""
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return sqlstate is None or sqlstate.startswith("57P")  # 57P: the server is shutting down


def _count(calls: list[Pending]) -> int:
    return sum(len(pending.rows) for pending in calls)


def _too_late(call: Pending, ahead: list[Pending], wait_s: float) -> ServiceError:
    """Return the error of a call that would be committed only after its caller's deadline."""
    retry_after = max(math.ceil(wait_s), 1)
    if any(waiting.account == call.account for waiting in ahead):
        return RateLimited(
            "the account's other calls with samples older than a day take"
            f" {retry_after} s more; send one after the other",
            retry_after=retry_after,
        )
    return Unavailable("samples of other accounts are being stored", retry_after=retry_after)


def _fail(group: list[Pending], error: ServiceError) -> None:
    for pending in group:
        if not pending.done.done():
            pending.done.set_exception(error)


@asynccontextmanager
async def _autocommit(connection: Connection) -> AsyncIterator[None]:
    """Commit each statement during the block, which saves two round trips."""
    accept_arrays(connection)
    await connection.set_autocommit(True)
    try:
        yield
    finally:
        if not connection.broken:
            await connection.set_autocommit(False)


async def _next_writer(connection: Connection) -> int:
    """Return a number that no other live writer has."""
    row = await (await connection.execute(NEXT_WRITER)).fetchone()
    assert row is not None
    number: int = row[0]
    return number


def writer_families(**writers: Writer) -> Iterator[MetricFamily]:
    """Yield the writers' metrics."""
    queues = {(name,): writer for name, writer in writers.items()}
    by = ("queue",)
    stored = {labels: writer.rows for labels, writer in queues.items()}
    yield MetricFamily("counter", "db_copy_rows", "Samples stored", by, stored)
    commits = {labels: writer.commits for labels, writer in queues.items()}
    yield MetricFamily("histogram", "db_copy_seconds", "Time to commit a group", by, commits)
    waiting = {labels: writer.queued_rows for labels, writer in queues.items()}
    yield MetricFamily("gauge", "db_copy_queued_rows", "Samples that wait", by, waiting)
