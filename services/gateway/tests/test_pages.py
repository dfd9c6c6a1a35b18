"""Pages, as far as they can be tested without a browser."""

import asyncio
import secrets
import threading

import pytest

from gateway.pages import figures

from .conftest import Desk


async def test_an_account_has_no_more_pages_at_once_than_requests(desk: Desk) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    person = {"email": email, "password": "correct horse battery"}
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        await http.post("/v1/api/accounts", json=person)
        cookie = (await http.post("/login", data=person)).headers["set-cookie"].partition(";")[0]
        desk.guards.capacity.max_per_account = 0
        refused = await http.get("/dashboard", headers={"Cookie": cookie})
        desk.guards.capacity.max_per_account = 5
        shown = await http.get("/dashboard", headers={"Cookie": cookie})
    assert (refused.status_code, shown.status_code) == (503, 200)


async def test_other_requests_are_answered_while_openapi_is_generated(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> dict[str, str]:
        begun.set()
        assert may_end.wait(20), "nothing else was answered meanwhile"
        return {"openapi": "3.1.0"}

    monkeypatch.setattr(desk.gateway.app, "openapi", slow)
    async with desk.http() as http:
        described = asyncio.create_task(http.get("/openapi.json"))
        while not begun.is_set():
            await asyncio.sleep(0)
        assert (await http.get("/healthz")).status_code == 200
        may_end.set()
        assert (await described).json() == {"openapi": "3.1.0"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000000805, "8.05e-7"), (0.00001234, "0.0000123"), (2e15, "2e15"), (1234.5, "1,234")],
)
def test_a_number_has_an_exponent_where_that_is_shorter(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_text_in_backticks_is_code_and_no_other_text_is_markup() -> None:
    shown = figures.marked("a higher `warmup`, <b>not</b> `<i>`")
    assert shown == "a higher <code>warmup</code>, &lt;b&gt;not&lt;/b&gt; <code>&lt;i&gt;</code>"
