"""A pool of connections to a service's own schema, and its migrations."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Self

import psycopg
import structlog
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.abc import RV, PQGen, Query
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from common import tracing
from common.background import retry
from common.errors import Unavailable
from common.instruments import MetricFamily

log = structlog.get_logger()

# Time to wait for a connection and to check an idle one: less than two seconds together.
POOL_TIMEOUT_S = 1.3
CHECK_TIMEOUT_S = 0.5
# The server cancels a statement that takes longer than this.
STATEMENT_TIMEOUT_MS = 10_000
# Longer than the server's limit: a server that has not even cancelled the statement hangs or is
# unreachable.
ANSWER_TIMEOUT_S = 12.0

# Keepalive settings: the kernel detects an unreachable server within half a minute.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

Connection = AsyncConnection[TupleRow]


class TimedConnection(AsyncConnection[TupleRow]):
    """A connection that breaks when an answer takes longer than `timeout_s` seconds."""

    timeout_s = ANSWER_TIMEOUT_S

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return await super().wait(gen, interval, timeout or self.timeout_s)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001  (there is no other name for it)
            self.pgconn.finish()
            raise

    async def check(self) -> None:
        """Raise an OperationalError when the server is unavailable or hangs."""
        timeout_s, self.timeout_s = self.timeout_s, CHECK_TIMEOUT_S
        try:
            await AsyncConnectionPool.check_connection(self)
        except BaseException:
            # On cancellation, for example, the connection's state is unknown.
            self.pgconn.finish()
            raise
        self.timeout_s = timeout_s

    async def reset(self) -> None:
        """Restore the state that a borrower expects."""
        if self.autocommit:
            await self.set_autocommit(False)


class TracedCursor(AsyncCursor[TupleRow]):
    """A cursor that traces its statements as spans, without their parameters."""

    async def execute(self, query: Query, *args: Any, **options: Any) -> Self:
        text = query if isinstance(query, str) else self._text(query)
        name = text.split(maxsplit=1)[0].upper() if text.strip() else "SQL"
        attributes = {
            "db.system.name": "postgresql",
            "db.namespace": self.connection.info.dbname,
            "db.query.text": text,
        }
        with tracing.span(name, "client", attributes):
            return await super().execute(query, *args, **options)

    def _text(self, query: Query) -> str:
        if isinstance(query, bytes):
            return query.decode()
        return query.as_string(self) if isinstance(query, sql.Composable) else str(query)


class Database:
    """A pool of connections: `async with database.connection() as connection:` is a transaction.

    Failures of the network or the server are `Unavailable`; an error in a
    statement stays what it is.
    """

    def __init__(
        self, url: str, schema: str, *, max_size: int = 8, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self.schema = schema
        self.url = url
        # Text is UTF-8 and times are UTC, independently of the database's encoding and the
        # server's time zone.
        self.options = (
            f"-c search_path={schema} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
            " -c client_encoding=utf8 -c timezone=UTC"
        )

        async def configure(connection: TimedConnection) -> None:
            connection.timeout_s = timeout_s

        self.pool = AsyncConnectionPool(
            url,
            connection_class=TimedConnection,
            configure=configure,
            min_size=1,
            max_size=max_size,
            max_waiting=max_size * 50,
            timeout=POOL_TIMEOUT_S,
            open=False,
            name=schema,
            # A connection that died with its server is replaced.
            check=TimedConnection.check,
            reset=TimedConnection.reset,
            kwargs={
                "options": self.options,
                "connect_timeout": 5,
                "application_name": schema,
                **KEEPALIVE,
            },
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection for one transaction, committed when the block succeeds.

        Raises:
            Unavailable: the database is unavailable, slow, full or out of connections.
        """
        try:
            async with self.pool.connection() as connection:
                if tracing.tracer is not None:
                    connection.cursor_factory = TracedCursor
                yield connection
        except (PoolTimeout, TooManyRequests) as error:
            raise Unavailable(
                "the database is busy or unavailable; try again", retry_after=1
            ) from error
        except (
            psycopg.errors.QueryCanceled,
            psycopg.errors.DiskFull,
            psycopg.errors.InsufficientResources,
            psycopg.OperationalError,
            psycopg.InterfaceError,
        ) as error:
            log.warning("database error", error=repr(error))
            raise Unavailable(
                "the database is busy or unavailable; try again", retry_after=1
            ) from error

    async def ping(self) -> None:
        """Make one round trip; raises as `connection` does."""
        async with self.connection() as connection:
            await connection.execute("select 1")

    def families(self) -> Iterator[MetricFamily]:
        """Yield the metrics of the pool."""
        stats = self.pool.get_stats()
        idle, size = stats.get("pool_available", 0), stats.get("pool_size", 0)
        yield MetricFamily(
            "gauge",
            "db_pool_connections",
            "Connections of the pool",
            ("state",),
            {("idle",): idle, ("used",): size - idle},
        )
        yield MetricFamily(
            "gauge",
            "db_pool_waiting",
            "Transactions that wait for a connection",
            (),
            {(): stats.get("requests_waiting", 0)},
        )
        for name, meaning, count in (
            ("transactions", "Transactions begun", stats.get("requests_num", 0)),
            ("errors", "Transactions that got no connection", stats.get("requests_errors", 0)),
            ("wait_seconds", "Time waited for connections", stats.get("requests_wait_ms", 0) / 1e3),
        ):
            yield MetricFamily("counter", f"db_pool_{name}", meaning, (), {(): count})

    async def migrate(self, package: str) -> None:
        """Apply the migrations in `<package>/migrations/NNN_*.sql` that are missing.

        The first replica does so under an advisory lock; the others wait for
        it. Each file is one transaction, except that a file that starts with
        `-- no transaction` runs statement by statement, for what PostgreSQL
        refuses inside a block. A database that is still starting is waited for.
        """
        scripts = sorted(
            (entry for entry in files(package).joinpath("migrations").iterdir()),
            key=lambda entry: entry.name,
        )
        async with await self._first_connection() as connection:
            lock = f"migrate {self.schema}"
            await connection.execute("set statement_timeout = 0")
            await connection.execute("select pg_advisory_lock(hashtext(%s))", [lock])
            await connection.execute(
                "create table if not exists migrations"
                " (name text primary key, applied_at timestamptz not null default now())"
            )
            rows = await (await connection.execute("select name from migrations")).fetchall()
            applied = {name for (name,) in rows}
            for script in scripts:
                if script.name.endswith(".sql") and script.name not in applied:
                    await _apply(connection, script.name, script.read_text())
                    log.info("migrated", schema=self.schema, script=script.name)

    async def _first_connection(self) -> Connection:
        async def connect() -> Connection:
            return await AsyncConnection.connect(
                self.url, options=self.options, autocommit=True, connect_timeout=5
            )

        return await retry(connect, psycopg.OperationalError, waiting_for="the database")


async def _apply(connection: Connection, name: str, script: str) -> None:
    record = sql.SQL("insert into migrations (name) values ({})").format(name)
    if script.startswith("-- no transaction"):
        for statement in script.split(";\n"):
            if statement.strip():
                await connection.execute(statement.encode())
        await connection.execute(record)
        return
    async with connection.transaction():
        await connection.execute(script.encode())
        await connection.execute(record)


@asynccontextmanager
async def connect(url: str, schema: str, package: str, **options: Any) -> AsyncIterator[Database]:
    """Migrate a database and open its pool, which is closed when the block ends."""
    database = Database(url, schema, **options)
    await database.migrate(package)
    await database.pool.open()
    try:
        yield database
    finally:
        await database.pool.close()
