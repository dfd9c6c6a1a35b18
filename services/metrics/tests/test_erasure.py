"""Deletion of a deleted account's metrics."""

from datetime import UTC, datetime, timedelta

import pytest

from common.contracts.access import ACCOUNT_ERASED, AccountDeleted
from common.errors import NotFound
from common.postgres import Database
from common.testing import MemoryBus
from metrics.erasure import Erasure

from .conftest import Caller
from .test_descriptions import describe


async def test_a_deleted_accounts_metrics_are_deleted_and_the_deletion_is_confirmed(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    old = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    await caller.record({"model_id": "m", "metrics": {"latency": 1.0}})
    await caller.record({"model_id": "m", "timestamp": old, "metrics": {"latency": 1.0}})
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select id from series where account = %s", [caller.account]
        )
        [(series,)] = await cursor.fetchall()
    await describe(caller, "tokens", 1.0, unit="tokens")
    await caller.monitor("m")
    account = caller.account
    for settled in (False, True):
        await Erasure(database, bus).erase(AccountDeleted(account=account, settled=settled))
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select (select count(*) from series where account = %s),"
            " (select count(*) from usage where account = %s),"
            " (select count(*) from descriptions where account = %s),"
            " (select count(*) from recorded where series = %s)",
            [account, account, account, series],
        )
        assert await cursor.fetchone() == (0, 0, 0, 0)
    with pytest.raises(NotFound):
        await caller.monitor("m")
    subject = f"{ACCOUNT_ERASED.subject}.{account}.metrics"
    confirmed = [body for name, body in bus.published if name == subject]
    assert [body.settled for body in confirmed] == [False, True]
