"""The tenant that a request's runs are counted for."""

from typing import Any

import pytest

from common import context
from common.contracts.benchmarking import BENCHMARK, QUOTE
from common.errors import Unavailable

from .conftest import Desk, post
from .test_pages import log_in

FORWARDED = {"X-Forwarded-For": "203.0.113.9"}


@pytest.mark.parametrize(
    ("change", "tenant"),
    [
        ("email = email", "203.0.113.9"),
        ("created_at = now() - interval '8 days'", ""),
        ("confirmed_at = now()", ""),
    ],
)
async def test_runs_of_a_new_unconfirmed_account_count_for_its_network(
    desk: Desk, change: str, tenant: str
) -> None:
    tenants: list[str] = []

    async def note(_: Any) -> Any:
        tenants.append(context.current.get().tenant)
        raise Unavailable("noted")

    desk.events.answer(BENCHMARK, note)
    desk.events.answer(QUOTE, note)
    _, key = await desk.key(scopes=["benchmark"])
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin", **FORWARDED}) as http:
        cookie = {"Cookie": await log_in(http)}
        async with desk.guards.accounts.database.connection() as connection:
            await connection.execute(f"update accounts set {change}".encode())
        await post(desk, "/v1/api/benchmark", key, {"modelId": "a/b"}, **FORWARDED)
        await http.get("/dashboard/benchmarks/quote?modelId=a/b", headers=cookie)
    assert tenants == [tenant, tenant]
