"""A pool of connections to a service's own schema, and its migrations."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from common.errors import Unavailable

log = structlog.get_logger()

# How long a request waits for a connection before it is refused, in seconds, and
# how long one that is there may take to say that it lives: less than two in all.
WAIT = 1.3
CHECK = 0.5
# A statement that takes longer than this is ended by the server, in milliseconds.
STATEMENT_TIMEOUT = 10_000
# A server that has not even said that by now hangs, or the way to it is cut, in seconds.
PATIENCE = 12.0

# A server whose machine or network is gone says nothing at all: the kernel notices
# in half a minute (seconds; milliseconds for what was sent and not acknowledged).
NOTICE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

Connection = AsyncConnection[TupleRow]


class PatientConnection(AsyncConnection[TupleRow]):
    """Waits for no answer longer than `patience`, in seconds; then it is broken."""

    patience = PATIENCE

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return await super().wait(gen, interval, timeout or self.patience)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001  (there is no other name for it)
            self.pgconn.finish()
            raise

    async def check(self) -> None:
        """Raises an OperationalError when the server is gone or hangs."""
        patience, self.patience = self.patience, CHECK
        try:
            await AsyncConnectionPool.check_connection(self)
        except BaseException:
            # Whoever asked has gone, say: nobody knows what state it was left in.
            self.pgconn.finish()
            raise
        self.patience = patience

    async def reset(self) -> None:
        """As it is handed out, whatever became of who had it before."""
        if self.autocommit:
            await self.set_autocommit(False)


class Database:
    """`async with database.connection() as connection:` is one transaction.

    What goes wrong on the way to the server, or because the server is going
    away, is `Unavailable`; an error in a statement stays what it is.
    """

    def __init__(self, url: str, schema: str, *, most: int = 8, patience: float = PATIENCE) -> None:
        self.schema = schema
        self.url = url
        # Text is UTF-8, also in a database that was made without saying so, and
        # times are UTC, wherever the server is.
        self.options = (
            f"-c search_path={schema} -c statement_timeout={STATEMENT_TIMEOUT}"
            " -c client_encoding=utf8 -c timezone=UTC"
        )

        async def configure(connection: PatientConnection) -> None:
            connection.patience = patience

        self.pool = AsyncConnectionPool(
            url,
            connection_class=PatientConnection,
            configure=configure,
            min_size=1,
            max_size=most,
            max_waiting=most * 50,
            timeout=WAIT,
            open=False,
            name=schema,
            # A connection that died with its server is not handed out.
            check=PatientConnection.check,
            reset=PatientConnection.reset,
            kwargs={
                "options": self.options,
                "connect_timeout": 5,
                "application_name": schema,
                **NOTICE,
            },
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed when the block ends well.

        Raises:
            Unavailable: the database is away, slow, full or out of connections.
        """
        try:
            async with self.pool.connection() as connection:
                yield connection
        except (PoolTimeout, TooManyRequests) as error:
            raise Unavailable("the database is busy or away", retry_after=1) from error
        except (
            psycopg.errors.QueryCanceled,
            psycopg.errors.DiskFull,
            psycopg.errors.InsufficientResources,
            psycopg.OperationalError,
            psycopg.InterfaceError,
        ) as error:
            log.warning("database error", error=repr(error))
            raise Unavailable("the database is busy or away", retry_after=1) from error

    async def ping(self) -> None:
        """One round trip; raises as `connection` does."""
        async with self.connection() as connection:
            await connection.execute("select 1")

    async def migrate(self, package: str) -> None:
        """Bring the schema up to what `<package>/migrations/NNN_*.sql` describe.

        Whoever of several replicas comes first does it, under an advisory
        lock; the others wait and find it done. Each file is one transaction,
        but one that starts with `-- no transaction` runs statement by
        statement, for what PostgreSQL refuses inside a block. The database
        may still be starting: this waits for it.
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
        while True:
            try:
                return await AsyncConnection.connect(
                    self.url, options=self.options, autocommit=True, connect_timeout=5
                )
            except psycopg.OperationalError as error:
                log.warning("waiting for the database", error=str(error).strip())
                await asyncio.sleep(0.5)


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
    """A migrated database, its pool closed when the block ends."""
    database = Database(url, schema, **options)
    await database.migrate(package)
    await database.pool.open()
    try:
        yield database
    finally:
        await database.pool.close()
