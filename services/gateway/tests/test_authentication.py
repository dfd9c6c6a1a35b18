"""API keys and credentials, tested through the ASGI application."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from common.contracts.access import KEY_REVOKED, Credentials, KeyRevoked
from common.errors import Unauthenticated
from gateway import authentication, keys
from gateway.keyring import KeyChange

from .conftest import Desk, post


async def test_a_key_without_a_scope_is_refused_with_the_missing_scopes_name(desk: Desk) -> None:
    _, key = await desk.key(scopes=["benchmark", "monitor:read"])
    answer = await post(desk, "/v1/api/echo", key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, 2003)
    assert answer.json()["error"]["details"] == {"scope": "generate"}
    assert desk.calls == []


async def test_a_replica_that_gets_the_event_refuses_a_revoked_key_at_once(desk: Desk) -> None:
    account, key = await desk.key()
    assert (await post(desk, "/v1/api/echo", key)).status_code == 200
    [stored] = (await desk.keyring.list(account)).keys
    await desk.keyring.revoke(account, stored.id)
    subject, event = desk.events.published[-1]
    assert subject == f"{KEY_REVOKED.subject}.{account}.{stored.id}"
    assert isinstance(event, KeyRevoked)
    assert event.scopes == []
    await desk.guards.authentication.forget(event)
    assert (await post(desk, "/v1/api/echo", key)).status_code == 401


async def test_an_expired_key_is_refused_even_if_it_was_just_used(desk: Desk) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    _, key = await desk.key(expires_at=end)
    assert (await post(desk, "/v1/api/echo", key)).status_code == 200
    await asyncio.sleep((end - datetime.now(UTC)).total_seconds() + 0.1)
    assert (await post(desk, "/v1/api/echo", key)).status_code == 401


async def test_a_check_for_an_open_socket_always_asks_the_database(
    desk: Desk,
) -> None:
    account, key = await desk.key()
    looking = desk.guards.authentication
    connected = Credentials(token=key, connected=True)
    assert (await looking.check(connected)).account == account
    [stored] = (await desk.keyring.list(account)).keys
    await desk.keyring.revoke(account, stored.id)  # and the event is lost
    with pytest.raises(Unauthenticated):
        await looking.check(connected)


async def test_keys_in_use_are_looked_up_together_before_a_request_has_to_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (account, used), (other, revoked), (_, idle) = [await desk.key() for _ in range(3)]
    looking = desk.guards.authentication
    with monkeypatch.context() as patched:
        patched.setattr(authentication, "MAX_TRUST_S", 0.0)
        for key in (idle, used, revoked):
            await looking.authenticate(key)
        looking._trusted[keys.hash_key(idle)].used -= authentication.MAX_IDLE_S
        [stored] = (await desk.keyring.list(other)).keys
        await desk.keyring.revoke(other, stored.id)  # and the event is lost
        patched.setattr(authentication, "MAX_TRUST_S", 5.0)
        await looking.renew()
    monkeypatch.setattr(looking, "database", None)
    assert (await looking.authenticate(used)).account == account
    for key in (revoked, idle):
        with pytest.raises(AttributeError):  # only the database would know
            await looking.authenticate(key)


async def test_a_changed_key_is_published_with_its_remaining_scopes(desk: Desk) -> None:
    account, _ = await desk.key()
    [stored] = (await desk.keyring.list(account)).keys
    for change, scopes in (
        (KeyChange(scopes=["generate", "monitor:read"]), ["generate", "monitor:read"]),
        (KeyChange(expires_at=None), ["generate", "monitor:read"]),
    ):
        await desk.keyring.change(account, stored.id, change)
        _, event = desk.events.published[-1]
        assert event == KeyRevoked(account=account, key=stored.id, scopes=scopes)


async def test_a_mistyped_key_is_refused_without_the_database(desk: Desk) -> None:
    await desk.guards.authentication.database.pool.close()
    with pytest.raises(Unauthenticated, match="copy the whole key"):
        await desk.guards.authentication.authenticate("lmg_live_" + "a" * 36)


async def test_the_last_use_of_keys_is_written_later_and_in_bulk(desk: Desk) -> None:
    account, key = await desk.key()
    await post(desk, "/v1/api/echo", key)
    [before] = (await desk.keyring.list(account)).keys
    assert before.last_used_at is None
    await desk.guards.authentication.write_last_use()
    [after] = (await desk.keyring.list(account)).keys
    assert after.last_used_at is not None


@pytest.mark.parametrize("scheme", [b"Basic", b"Bearer"])
@pytest.mark.parametrize("credentials", [b"\xe9", b"", b"!", b"YTpi\xff", b"/w==", b"YQ=="])
async def test_malformed_credentials_are_refused_with_401(
    desk: Desk, scheme: bytes, credentials: bytes
) -> None:
    headers = [(b"Authorization", scheme + b" " + credentials)]
    async with desk.http() as http:
        answers = [
            await http.get("/v1/api/keys", headers=headers),
            await http.post("/v1/api/echo", headers=headers),
        ]
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(401, 2001)}
