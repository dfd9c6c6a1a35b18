"""A database on an external server, in place of the stack's own PostgreSQL.

TEST_DATABASE_URL is the address of one, with a role that may make roles and
databases; TEST_DATABASE_IMAGE is an image that testcontainers runs one from,
where Docker is: `timescale/timescaledb:2.29.2-pg18`. Without either, the
tests use the embedded PostgreSQL.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg


@dataclass(frozen=True)
class ExternalDatabase:
    """A database: `url` is for a role that owns only it, `owner` for the server's owner."""

    url: str
    owner: str
    role: str


@contextlib.contextmanager
def database() -> Iterator[ExternalDatabase | None]:
    """Create a database, and drop it when the block ends, so that tests can share the server."""
    with _server() as owner:
        if owner is None:
            yield None
            return
        name = f"lilypad_{secrets.token_hex(6)}"
        address = urlsplit(owner)
        host = address.netloc.rpartition("@")[2]
        own = address._replace(netloc=f"{name}:{name}@{host}", path=f"/{name}")
        execute(owner, f"create role {name} login password '{name}'")
        execute(owner, f"create database {name} owner {name}")
        try:
            yield ExternalDatabase(urlunsplit(own), owner, name)
        finally:
            execute(owner, f"drop database {name} with (force)")
            execute(owner, f"drop role {name}")


@contextlib.contextmanager
def _server() -> Iterator[str | None]:
    image = os.environ.get("TEST_DATABASE_IMAGE")
    if not image:
        yield os.environ.get("TEST_DATABASE_URL") or None
        return
    from testcontainers.community.postgres import (  # noqa: PLC0415  (it looks for Docker)
        PostgresContainer,
    )

    with PostgresContainer(image, driver=None) as container:
        yield container.get_connection_url()


def execute(
    url: str, statement: str, *parameters: Any, schema: str = "metrics"
) -> list[tuple[Any, ...]]:
    options = f"-c search_path={schema} -c client_encoding=utf8"
    with psycopg.connect(url, options=options, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []
