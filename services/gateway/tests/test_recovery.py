"""Forgotten passwords: links that work once, mailed to a real SMTP server or printed."""

import asyncio
import re
import secrets
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from aiosmtpd.controller import Controller

from gateway import recovery
from local import ports
from local.stack import Stack

from .conftest import Desk

OLD, NEW = "correct horse battery", "staple a longer battery"
HERE = {"Sec-Fetch-Site": "same-origin"}


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[tuple[list[str], str]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  (aiosmtpd's name)
        self.mails.append((envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"


@pytest.fixture
def mailbox(desk: Desk) -> Iterator[Mailbox]:
    box = Mailbox()
    [port] = ports.find(1)
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    desk.guards.recovery.smtp_url = f"smtp://127.0.0.1:{port}"
    desk.guards.recovery.smtp_from = "lilypad@example.com"
    yield box
    server.stop()


async def person(http: httpx2.AsyncClient) -> str:
    email = f"{secrets.token_hex(6)}@example.com"
    registered = await http.post("/v1/api/accounts", json={"email": email, "password": OLD})
    assert registered.status_code == 201, registered.text
    return email


async def request_link(http: httpx2.AsyncClient, email: str) -> httpx2.Response:
    return await http.post("/v1/api/account/reset", json={"email": email})


async def confirm(http: httpx2.AsyncClient, token: str, new: str = NEW) -> httpx2.Response:
    body = {"token": token, "new": new}
    return await http.post("/v1/api/account/reset/confirm", json=body)


async def token_for(desk: Desk, http: httpx2.AsyncClient, email: str, mailbox: Mailbox) -> str:
    assert (await request_link(http, email)).status_code == 202
    assert await desk.guards.recovery.mail_next()
    to, text = mailbox.mails[-1]
    assert to == [email]
    link = re.search(r"http://gateway/reset\?token=(\S+)", text)
    assert link
    return link[1]


async def test_a_mailed_link_sets_the_password_once_and_ends_all_sessions(
    desk: Desk, mailbox: Mailbox
) -> None:
    async with desk.http(headers=HERE) as http:
        email = await person(http)
        login = await http.post("/login", data={"email": email, "password": OLD})
        http.cookies.clear()
        cookie = {"Cookie": login.headers["set-cookie"].partition(";")[0]}
        token = await token_for(desk, http, email, mailbox)
        assert (await confirm(http, token)).status_code == 204
        again = await confirm(http, token)
        assert (again.status_code, again.json()["error"]["code"]) == (400, 1003)
        assert (await http.get("/v1/api/account", headers=cookie)).status_code == 401
        assert (await http.get("/v1/api/account", auth=(email, OLD))).status_code == 401
        assert (await http.get("/v1/api/account", auth=(email, NEW))).status_code == 200


async def test_a_reset_of_an_unknown_address_gets_the_same_answer_and_no_mail(
    desk: Desk, mailbox: Mailbox
) -> None:
    async with desk.http() as http:
        known, unknown = await person(http), f"{secrets.token_hex(6)}@example.com"
        answers = [await request_link(http, email) for email in (known, unknown)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert [answer.json()["data"] for answer in answers] == [None, None]
    while await desk.guards.recovery.mail_next():
        pass
    assert unknown not in [to for tos, _ in mailbox.mails for to in tos]


async def test_only_the_first_reset_link_of_an_account_revokes_its_keys(
    desk: Desk, mailbox: Mailbox
) -> None:
    """The first reset proves who owns the address: keys created later are the owner's."""
    async with desk.http() as http:
        email = await person(http)
        statuses = []
        for password, new in ((OLD, NEW), (NEW, OLD)):
            created = await http.post("/v1/api/keys", json={"name": "x"}, auth=(email, password))
            token = await token_for(desk, http, email, mailbox)
            assert (await confirm(http, token, new)).status_code == 204
            key = {"Authorization": f"Bearer {created.json()['data']['key']}"}
            statuses.append((await http.post("/v1/api/echo", json={}, headers=key)).status_code)
        assert statuses == [401, 200]


async def test_a_mail_that_cannot_be_sent_is_retried_later(desk: Desk, mailbox: Mailbox) -> None:
    [closed] = ports.find(1)
    async with desk.http() as http:
        email = await person(http)
        while await desk.guards.recovery.mail_next():
            pass
        working = desk.guards.recovery.smtp_url
        desk.guards.recovery.smtp_url = f"smtp://127.0.0.1:{closed}"
        await request_link(http, email)
        with pytest.raises(OSError):
            await desk.guards.recovery.mail_next()
        desk.guards.recovery.smtp_url = working
        assert not await desk.guards.recovery.mail_next()
        async with desk.guards.accounts.database.connection() as connection:
            await connection.execute("update reset_requests set due_at = now()")
        assert await desk.guards.recovery.mail_next()
        assert mailbox.mails[-1][0] == [email]


async def test_an_operators_command_prints_the_link(
    desk: Desk, servers: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", servers.postgres.url("gateway"))
    monkeypatch.setenv("PUBLIC_URL", "http://gateway")
    async with desk.http() as http:
        email = await person(http)
        assert await recovery.print_link(email.upper()) == 0
        # Tests log to standard output as well.
        link = capsys.readouterr().out.splitlines()[-1]
        token = link.removeprefix("http://gateway/reset?token=")
        assert (await confirm(http, token)).status_code == 204
    assert await recovery.print_link("nobody@example.com") == 1


async def test_an_expired_link_sets_no_password(desk: Desk, mailbox: Mailbox) -> None:
    async with desk.http() as http:
        email = await person(http)
        token = await token_for(desk, http, email, mailbox)
        async with desk.guards.accounts.database.connection() as connection:
            await connection.execute("update resets set expires_at = now()")
        assert (await confirm(http, token)).status_code == 400
        assert (await http.get("/v1/api/account", auth=(email, OLD))).status_code == 200


async def test_an_undeliverable_address_does_not_stop_other_mail(
    desk: Desk, mailbox: Mailbox
) -> None:
    odd = f"ä{secrets.token_hex(6)}@example.com"
    async with desk.http() as http:
        body = {"email": odd, "password": OLD}
        assert (await http.post("/v1/api/accounts", json=body)).status_code == 201
        email = await person(http)
        mailing = asyncio.create_task(desk.guards.recovery.keep_mailing())
        await request_link(http, odd)
        await request_link(http, email)
        while [email] not in [to for to, _ in mailbox.mails]:
            await asyncio.sleep(0.05)
            assert not mailing.done()
        mailing.cancel()
