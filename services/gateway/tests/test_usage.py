"""Usage: requests of each key on each day, by kind."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from common.postgres import Database
from gateway import usage
from gateway.keyring import NewKey
from gateway.usage import UsageRequest

from .conftest import Desk
from .test_endpoint import post


async def read(desk: Desk, key: str, query: str = "") -> dict[str, Any]:
    async with desk.http() as http:
        headers = {"Authorization": f"Bearer {key}"}
        answer = await http.get(f"/v1/api/usage{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def test_usage_counts_each_keys_successes_by_kind_and_errors_by_code(desk: Desk) -> None:
    account, key = await desk.key()
    second = await desk.keyring.create(account, NewKey(name="second"))
    _, stranger = await desk.key()
    for word, number in (("x", 3), ("verify", 2)):
        for _ in range(number):
            await post(desk, "/v1/api/echo", key, {"word": word})
    await post(desk, "/v1/api/echo", key, {"wrong": 1})
    await post(desk, "/v1/api/few", key)  # not counted
    await post(desk, "/v1/api/echo", second.key)
    await post(desk, "/v1/api/echo", stranger)
    rows = (await read(desk, key))["usage"]
    today = datetime.now(UTC).date().isoformat()
    assert {row["day"] for row in rows} == {today}
    counted = {row["keyName"]: (row["generate"], row["verify"], row["errors"]) for row in rows}
    assert counted == {"test": (3, 2, {"1003": 1}), "second": (1, 0, {})}
    # A second read adds nothing, and its pages are the whole list.
    first = await read(desk, key, "?limit=1")
    rest = await read(desk, key, f"?limit=1&before={first['next']}")
    assert first["usage"] + rest["usage"] == rows
    assert rest["next"] is None


async def test_usage_survives_a_failed_write_and_a_deleted_account(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = desk.guards.usage
    account, key = await desk.key()
    gone, its = await desk.key()
    await post(desk, "/v1/api/echo", key)
    await post(desk, "/v1/api/echo", its)
    async with database.connection() as connection:
        await connection.execute("delete from accounts where id = %s", [gone])
    with monkeypatch.context() as patched:
        patched.setattr(usage, "FLUSH", "insert into key_usage values (%s, %s, %s, %s, %s)")
        with pytest.raises(psycopg.Error):
            await counts.flush()
    assert sum(counts._unflushed.values()) == 2
    await counts.flush()
    assert [row.generate for row in (await counts.page(account, UsageRequest())).usage] == [1]
    assert (await counts.page(gone, UsageRequest())).usage == []


async def test_usage_is_written_when_the_gateway_stops(desk: Desk, database: Database) -> None:
    account, key = await desk.key()
    flushing = asyncio.create_task(desk.guards.usage.keep_flushing())
    await post(desk, "/v1/api/echo", key)
    flushing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await flushing
    another = usage.UsageCounts(database)
    assert [row.generate for row in (await another.page(account, UsageRequest())).usage] == [1]
