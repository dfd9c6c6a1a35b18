"""The database, with the real server: access to tables, and durability."""

import re
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from k8s import credentials

from common.errors import Unavailable
from common.postgres import Database
from local.postgres import Postgres
from local.stack import Stack


@pytest.fixture
def postgres(servers: Stack) -> Postgres:
    with psycopg.connect(servers.postgres.url("gateway")) as gateway:
        gateway.execute("create table if not exists keys (name text)")
    return servers.postgres


def test_unqualified_table_names_resolve_to_the_services_schema(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url("gateway")) as gateway:
        gateway.execute("insert into keys values ('mine')")
        where = gateway.execute("select schemaname from pg_tables where tablename = 'keys'")
        assert where.fetchall() == [("gateway",)]


@pytest.mark.parametrize(
    "statement",
    [
        "select * from gateway.keys",
        "insert into gateway.keys values ('theirs')",
        "create table gateway.mine (x int)",
        "create table public.mine (x int)",
        "create schema mine",
        "create database mine",
        "create role mine",
        "set role gateway",
        "copy (select 1) to program 'true'",
        "select pg_read_file('PG_VERSION')",
    ],
)
def test_no_service_reaches_beyond_its_schema(postgres: Postgres, statement: str) -> None:
    with (
        psycopg.connect(postgres.url("metrics"), autocommit=True) as metrics,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        metrics.execute(statement)


def test_each_role_that_is_printed_for_a_cluster_owns_one_schema(servers: Stack) -> None:
    manifests, statements = credentials.make("db.example.com", "cluster")
    # Roles belong to all databases of a server; this one has some of these names already.
    text = re.sub(rf"\b({'|'.join(credentials.DATABASE)})\b", r"\1_2", "\n".join(statements))
    administrator = servers.postgres.url()
    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute("create database cluster")
    with psycopg.connect(administrator, dbname="cluster", autocommit=True) as connection:
        connection.execute(text.encode())
    passwords = dict(re.findall(r"//(\w+):(\w+)@db\.example\.com/cluster", str(manifests)))
    assert set(passwords) == set(credentials.DATABASE)
    for name, password in passwords.items():
        login = {"dbname": "cluster", "user": f"{name}_2", "password": password}
        with psycopg.connect(administrator, autocommit=True, **login) as service:
            service.execute("create table mine (x int)")
            where = service.execute("select schemaname from pg_tables where tablename = 'mine'")
            assert (f"{name}_2",) in where.fetchall()
            for other in {*passwords, "public"} - {name}:
                schema = other if other == "public" else f"{other}_2"
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    service.execute(f"create table {schema}.theirs (x int)")


@pytest.mark.parametrize("user", ["gateway", "postgres", "nobody"])
@pytest.mark.parametrize("password", ["", ":wrong"])
def test_a_client_without_the_password_is_rejected(
    postgres: Postgres, user: str, password: str
) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://{user}{password}@127.0.0.1:{postgres.port}/lilypad")


async def test_a_pool_reads_a_changed_password_from_its_passfile(
    postgres: Postgres, tmp_path: Path
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"*:*:*:*:{postgres.credentials.password('postgres/metrics')}\n")
    url = f"postgresql://metrics@127.0.0.1:{postgres.port}/lilypad?passfile={passfile}"
    database = Database(url, "metrics")
    try:
        async with database.pool:
            await database.ping()
            with psycopg.connect(postgres.url(), autocommit=True) as server:
                server.execute("alter role metrics password 'changed'")
                passfile.write_text("*:*:*:*:changed\n")
                server.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
                    ["metrics"],
                )
            while True:  # a connection may end a moment after it was told to
                with suppress(Unavailable):
                    await database.ping()
                    break
    finally:
        postgres.create_schemas(["metrics"])


def test_schemas_can_be_created_again_without_losing_their_content(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url("gateway")) as gateway:
        gateway.execute("insert into keys values ('before')")
    postgres.create_schemas(["gateway", "metrics", "benchmarker"])
    with psycopg.connect(postgres.url("gateway")) as gateway:
        count = gateway.execute("select count(*) from keys where name = 'before'").fetchone()
    assert count == (1,)
    with psycopg.connect(postgres.url("benchmarker")) as benchmarker:
        benchmarker.execute("create table runs (id int)")


def test_committed_rows_survive_a_killed_server(servers: Stack, postgres: Postgres) -> None:
    with psycopg.connect(postgres.url("gateway")) as gateway:
        gateway.execute("insert into keys values ('committed')")
    servers.processes["postgres"].kill()
    servers.wait_until_ready("postgres")
    with psycopg.connect(postgres.url("gateway")) as gateway:
        count = gateway.execute("select count(*) from keys where name = 'committed'").fetchone()
        checksums = gateway.execute("show data_checksums").fetchone()
    assert (count, checksums) == ((1,), ("on",))
