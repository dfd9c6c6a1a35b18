"""Registration and login, also while passwords are being guessed."""

import asyncio
import secrets
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from common.errors import Unauthenticated, Unavailable
from gateway import audit
from gateway.accounts import MAX_TRYING
from gateway.passwords import MAX_WAITING
from gateway.sessions import find_by_socket_token
from gateway.windows import Policy

from .conftest import Desk


async def test_the_number_of_callers_waiting_to_log_in_is_bounded(desk: Desk) -> None:
    done = asyncio.Event()

    async def wait_in_line(address: str) -> None:
        audit.origin.set((b"", address))
        async with desk.guards.accounts._turn(audit.network()):
            await done.wait()

    from_one = [asyncio.ensure_future(wait_in_line("10.0.0.1")) for _ in range(60)]
    others = [asyncio.ensure_future(wait_in_line(f"10.0.1.{n % 250}")) for n in range(500)]
    await asyncio.sleep(0)
    waiting = Counter(task.done() for task in from_one), Counter(task.done() for task in others)
    assert waiting[0][False] == MAX_WAITING + 1
    assert waiting[0][False] + waiting[1][False] == MAX_TRYING
    done.set()
    outcomes = await asyncio.gather(*from_one, *others, return_exceptions=True)
    assert all(error is None or isinstance(error, Unavailable) for error in outcomes)
    await asyncio.wait_for(wait_in_line("10.0.2.1"), 60)


async def test_addresses_that_keep_guessing_leave_capacity_for_others(desk: Desk) -> None:
    done = asyncio.Event()

    async def wait_in_line(address: str) -> None:
        audit.origin.set((b"", address))
        async with desk.guards.accounts._turn(audit.network()):
            await done.wait()

    few = [asyncio.ensure_future(wait_in_line(f"10.0.3.{n % 6}")) for n in range(600)]
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(wait_in_line(f"10.0.4.{n}")) for n in range(10)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in others)
    done.set()
    outcomes = await asyncio.gather(*few, *others, return_exceptions=True)
    assert all(error is None or isinstance(error, Unavailable) for error in outcomes)
    assert not desk.guards.accounts._turns


def test_an_ipv6_64_is_one_network_and_each_ipv4_address_is_one() -> None:
    written = ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.2", "2001:db8::1", "2001:db8::2", "?"]
    networks = []
    for address in written:
        audit.origin.set((f"1.1.1.1, {address}".encode(), "10.0.0.9"))
        networks.append(audit.network())
    assert networks == [
        "10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::/64", "2001:db8::/64", "",
    ]  # fmt: skip


async def test_the_same_refusal_is_audited_once_a_minute(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, key = await desk.key()
    async with desk.guards.accounts.database.connection() as connection:
        await connection.execute(
            "update keys set revoked_at = now() where account_id = %s", [account]
        )

    async def noted() -> int:
        async with desk.http() as http:
            for _ in range(3):
                answer = await http.get("/v1/api/keys", headers={"Authorization": f"Bearer {key}"})
                answer = await http.post("/v1/api/echo", headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code == 401
        async with desk.guards.accounts.database.connection() as connection:
            cursor = await connection.execute(
                "select count(*) from audit where act = 'key_refused' and account_id = %s",
                [account],
            )
            [(count,)] = await cursor.fetchall()
        return int(count)

    assert await noted() == 1
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 61)
    monkeypatch.setattr("gateway.audit.time", later)
    assert await noted() == 2


async def test_another_spelling_of_an_address_finds_the_same_account(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dotted capital I, which is one letter to the database and another to Python."""
    monkeypatch.setitem(desk.guards.limits.policies, "login", Policy("login", 3))
    used, free = (f"ii{secrets.token_hex(6)}@example.com" for _ in range(2))
    async with desk.http(headers={"X-Forwarded-For": f"10.9.0.{secrets.randbelow(250)}"}) as http:

        async def register(email: str, password: str) -> str:
            answer = await http.post(
                "/v1/api/accounts", json={"email": email, "password": password}
            )
            assert answer.status_code == 201
            return str(answer.json()["data"]["id"])

        owner = await register(used, "correct horse battery")
        for password in ("a guess that is wrong", "correct horse battery"):
            odd = used.replace("ii", "\u0130I")
            ids = {await register(email, password) for email in (used, odd)}
            assert len(ids) == 1  # otherwise two requests would reveal which password is right
            assert (ids == {owner}) == password.startswith("correct")
        for email in (used, free):
            statuses = [
                (
                    await http.get("/v1/api/keys", auth=(email.replace("ii", spelling), "guess"))
                ).status_code
                for spelling in ("ii", "I\u0130", "\u0130I", "\u0130\u0130")
            ]
            assert statuses == [401, 401, 401, 429]


async def test_a_socket_token_belongs_to_the_authenticated_caller_even_with_a_cookie(
    desk: Desk,
) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"}
    auth = person["email"], person["password"]
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        await http.post("/v1/api/accounts", json=person)
        login = await http.post("/login", data=person)
        cookie = login.headers["set-cookie"].partition(";")[0]
        ended = {"Cookie": "__Host-session=ended"}
        answers = [
            await http.post("/v1/api/socket-tokens", auth=auth, headers=ended),
            await http.post("/v1/api/socket-tokens", auth=auth, headers={"Cookie": cookie}),
            await http.post("/v1/api/socket-tokens", headers={"Cookie": cookie}),
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 201]
        await http.post("/logout", data={"sure": "yes"}, headers={"Cookie": cookie})
    database = desk.guards.accounts.database
    for answer in answers[:2]:  # the password's, not the session's
        assert await find_by_socket_token(database, answer.json()["data"]["token"], connected=False)
    with pytest.raises(Unauthenticated):
        await find_by_socket_token(database, answers[2].json()["data"]["token"], connected=False)
    with pytest.raises(Unauthenticated):  # it ended while the request was under way
        await desk.guards.sessions.make_socket_token("acc_0", cookie.partition("=")[2])


async def test_a_throttled_login_is_recorded_equally_with_and_without_an_account(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an account's first refusal would take longer than an unknown address's."""
    monkeypatch.setitem(desk.guards.limits.policies, "login", Policy("login", 1))
    noted: list[str | None] = []

    async def note(_: object, act: str, account: str | None, **details: object) -> None:
        noted.append(account)

    monkeypatch.setattr("gateway.audit.note", note)
    emails = [f"{secrets.token_hex(6)}@example.com" for _ in range(4)]
    address = {"X-Forwarded-For": f"10.9.1.{secrets.randbelow(250)}"}
    async with desk.http(headers=address) as http:
        for email in emails[:2]:
            body = {"email": email, "password": "correct horse battery"}
            await http.post("/v1/api/accounts", json=body)
        for email in emails:
            statuses = [
                (await http.get("/v1/api/keys", auth=(email, "guess"))).status_code
                for _ in range(3)
            ]
            assert statuses == [401, 429, 429]
    assert [account is None for account in noted] == [False, False, True, True]


async def test_an_older_browser_can_read_with_its_session_but_another_site_cannot(
    desk: Desk,
) -> None:
    """An older browser does not say which site a GET comes from."""
    person = {"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"}
    here = {"Origin": "http://gateway"}
    async with desk.http() as http:
        await http.post("/v1/api/accounts", json=person)
        login = await http.post("/login", data=person, headers=here)
        http.headers["Cookie"] = login.headers["set-cookie"].partition(";")[0]
        for headers, read, written in (
            ({}, 200, 403),
            (here, 200, 201),
            ({"Origin": ""}, 403, 403),
            ({"Origin": "null"}, 403, 403),
            ({"Origin": "http://elsewhere"}, 403, 403),
            ({"Origin": "https://gateway"}, 403, 403),
            ({"Origin": "https://gateway", "X-Forwarded-Proto": "https"}, 200, 201),
            ({**here, "X-Forwarded-Proto": "https"}, 403, 403),
            ({"Sec-Fetch-Site": "none"}, 200, 201),
            ({**here, "Sec-Fetch-Site": "none"}, 200, 201),
            ({"Origin": "http://elsewhere", "Sec-Fetch-Site": "none"}, 403, 403),
            ({**here, "Sec-Fetch-Site": "same-origin"}, 200, 201),
            ({"Origin": "http://elsewhere", "Sec-Fetch-Site": "same-origin"}, 403, 403),
            ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 403, 403),
            ({"Sec-Fetch-Site": ""}, 403, 403),
            ({"Sec-Fetch-Site": "Same-Origin"}, 403, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403, 403),
        ):
            listed = await http.get("/v1/api/keys", headers=headers)
            created = await http.post("/v1/api/keys", json={"name": "x"}, headers=headers)
            assert (listed.status_code, created.status_code) == (read, written), headers
