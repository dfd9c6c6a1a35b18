"""Rotation of keys: secrets in a database are re-encrypted, and an old key can be dropped.

A service's `python -m <service>.rotation` runs it with the replicas' own settings, while they
serve: a secret that is stored meanwhile stays as it is.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from common.encryption import Encryption
from common.postgres import Database
from common.quantities import counted

# Rows that are read and locked at once.
BATCH = 500


@dataclass(frozen=True)
class Column:
    """A column of encrypted secrets, `bytea` or `text`, and the key of its table."""

    table: str
    key: str
    secret: str


@dataclass
class Outcome:
    """Numbers of secrets: re-encrypted, encrypted with the first key already, or undecryptable."""

    renewed: int = 0
    current: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        return (
            f"{counted(self.renewed, 'secret')} encrypted anew, {self.current} had the first key"
            f" already, {self.unreadable} cannot be decrypted"
        )


async def rotate(database: Database, encryption: Encryption, columns: Sequence[Column]) -> Outcome:
    """Re-encrypt each secret that another key than the first encrypted.

    Raises:
        SystemExit: there is no key.
    """
    if not encryption.possible:
        sys.exit("ENCRYPTION_KEYS is not set: set it as the replicas have it, the new key first")
    outcome = Outcome()
    for column in columns:
        last: str | None = ""
        while last is not None:
            last = await _rotate_batch(database, encryption, column, last, outcome)
    return outcome


async def _rotate_batch(
    database: Database, encryption: Encryption, column: Column, last: str, outcome: Outcome
) -> str | None:
    """Re-encrypt a batch of rows after the key `last`; return its last key, None at the end."""
    table, key, secret = (
        sql.Identifier(name) for name in (column.table, column.key, column.secret)
    )
    query = sql.SQL(
        "select {key}, {secret} from {table} where {key} > %s and {secret} is not null"
        " order by {key} limit %s for update"
    ).format(table=table, key=key, secret=secret)
    change = sql.SQL("update {table} set {secret} = %s where {key} = %s").format(
        table=table, key=key, secret=secret
    )
    async with database.connection() as connection:
        rows = await (await connection.execute(query, [last, BATCH])).fetchall()
        for id, stored in rows:
            former = stored.encode() if isinstance(stored, str) else bytes(stored)
            if encryption.is_current(former):
                outcome.current += 1
            elif (renewed := encryption.renew(former)) is None:
                outcome.unreadable += 1
            else:
                value = renewed.decode() if isinstance(stored, str) else renewed
                await connection.execute(change, [value, id])
                outcome.renewed += 1
    return str(rows[-1][0]) if rows else None


def report(outcome: Outcome) -> int:
    """Print an outcome for the operator; return the exit status."""
    sys.stdout.write(f"{outcome}\n")
    if outcome.unreadable:
        sys.stderr.write("keep every key that may have encrypted them in ENCRYPTION_KEYS\n")
    return 1 if outcome.unreadable else 0
