"""`Idempotency-Key`, tested through the ASGI application."""

import asyncio
from typing import Any

import pytest

from common import context
from common.bus import NatsBus
from common.context import Context
from common.errors import ModelRefused, NotFound, Unavailable
from gateway.keyring import CreatedKey, NewKey
from gateway.windows import Policy

from .conftest import Desk, Echo, post


async def test_a_repeated_request_gets_the_first_answer(desk: Desk) -> None:
    _, key = await desk.key()
    first = await post(desk, "/v1/api/echo", key, idempotency_key="one")
    again = await post(desk, "/api/echo", key, idempotency_key="one")
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(desk.calls) == 1


async def test_fifty_concurrent_repeats_run_the_handler_once(desk: Desk) -> None:
    _, key = await desk.key()
    desk.guards.capacity.max_per_account = 100
    desk.guards.capacity.max_at_once = 100
    answers = await asyncio.gather(
        *(post(desk, "/v1/api/echo", key, idempotency_key="fifty") for _ in range(50))
    )
    assert len(desk.calls) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1


async def test_a_retry_during_the_first_request_is_refused_with_409(
    desk: Desk,
) -> None:
    _, key = await desk.key()
    released, begun = asyncio.Event(), asyncio.Event()

    async def slowly(*_: Any) -> Echo:
        begun.set()
        await released.wait()
        return Echo(word="slow", times=1)

    desk.answer = slowly
    first = asyncio.create_task(post(desk, "/v1/api/echo", key, idempotency_key="slow"))
    await begun.wait()
    second = await post(desk, "/v1/api/echo", key, idempotency_key="slow")
    assert (second.status_code, second.json()["error"]["code"]) == (409, 3002)
    assert second.headers["retry-after"] == "1"
    released.set()
    assert (await first).status_code == 200


async def test_a_retry_during_a_run_gets_the_url_of_the_run(
    desk: Desk,
) -> None:
    _, key = await desk.key()
    finish, begun = asyncio.Event(), asyncio.Event()

    async def slowly(*_: Any) -> Echo:
        begun.set()
        await finish.wait()
        return Echo(word="slow", times=1)

    desk.answer = slowly
    first = asyncio.create_task(post(desk, "/v1/api/joined", key, idempotency_key="join"))
    await begun.wait()
    retry = await post(desk, "/v1/api/joined", key, idempotency_key="join")
    assert (retry.status_code, retry.headers["location"]) == (202, "/v1/api/joined/1")
    other = await post(desk, "/v1/api/joined", key, {"word": "other"}, idempotency_key="join")
    assert other.status_code == 422
    finish.set()
    assert (await first).status_code == 200
    again = await post(desk, "/v1/api/joined", key, idempotency_key="join")
    assert again.content == (await first).content  # the answer of the work is the one stored
    assert len(desk.calls) == 1


async def test_the_same_key_with_another_body_or_endpoint_is_refused(desk: Desk) -> None:
    _, key = await desk.key()
    await post(desk, "/v1/api/echo", key, {"word": "a"}, idempotency_key="k")
    for path, body in (("/v1/api/echo", {"word": "b"}), ("/v1/api/few", {"word": "a"})):
        answer = await post(desk, path, key, body, idempotency_key="k")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, 3002)
    assert len(desk.calls) == 1


async def test_idempotency_keys_of_two_accounts_are_separate(desk: Desk) -> None:
    (_, own), (_, other) = await desk.key(), await desk.key()
    for key in (own, other):
        answer = await post(desk, "/v1/api/echo", key, idempotency_key="shared")
        assert "idempotent-replayed" not in answer.headers
    (_, first), (_, second) = desk.calls
    assert first != second


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        (ModelRefused("no"), True),
        (Unavailable("away"), False),
        (RuntimeError("broken"), False),
    ],
)
async def test_a_refusal_is_stored_and_a_failure_is_not(
    desk: Desk, error: Exception, stored: bool
) -> None:
    _, key = await desk.key()

    async def fail(*_: Any) -> Echo:
        raise error

    desk.answer = fail
    first = await post(desk, "/v1/api/echo", key, idempotency_key="fails")
    desk.answer = None
    second = await post(desk, "/v1/api/echo", key, idempotency_key="fails")
    assert (second.content == first.content) is stored
    assert second.status_code == (422 if stored else 200)


async def test_a_key_with_another_body_after_a_failure_is_a_new_request(
    desk: Desk,
) -> None:
    """The failed work may have been done, and the service that did it remembers the request."""
    _, key = await desk.key()

    async def fail(*_: Any) -> Echo:
        raise Unavailable("away")

    desk.answer = fail
    await post(desk, "/v1/api/echo", key, {"word": "a"}, idempotency_key="again")
    await post(desk, "/v1/api/echo", key, {"word": "a"}, idempotency_key="again")
    desk.answer = None
    await post(desk, "/v1/api/echo", key, {"word": "b"}, idempotency_key="again")
    (_, first), (_, second), (_, other) = desk.calls
    assert first == second != other


async def test_a_404_is_audited_equally_with_and_without_an_idempotency_key(desk: Desk) -> None:
    account, key = await desk.key()

    async def fail(*_: Any) -> Echo:
        raise NotFound("no such thing")

    desk.answer = fail
    for headers in ({}, {"idempotency_key": "absent"}):
        assert (await post(desk, "/v1/api/echo", key, **headers)).status_code == 404
    async with desk.guards.idempotency.database.connection() as connection:
        cursor = await connection.execute(
            "select act from audit where account_id = %s and act like 'not%%'", [account]
        )
        assert await cursor.fetchall() == [("not_found",), ("not_found",)]


async def test_a_replay_counts_as_a_request_but_not_as_costly_work(desk: Desk) -> None:
    _, key = await desk.key()
    for _ in range(5):
        answer = await post(desk, "/v1/api/few", key, idempotency_key="cheap")
        assert answer.status_code == 200
    statuses = [(await post(desk, "/v1/api/few", key)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_an_account_over_its_limit_is_not_charged_for_requests_with_an_idempotency_key(
    desk: Desk, nats: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(desk.guards.limits.policies, "api", Policy("api", 100))
    account, key = await desk.key()
    first = await post(desk, "/v1/api/few", key, idempotency_key="first")
    statuses = [
        (await post(desk, "/v1/api/few", key, idempotency_key=f"few{n}")).status_code
        for n in range(4)
    ]
    assert statuses == [200, 200, 429, 429]
    limits = desk.guards.limits
    while tasks := [*limits.counters.store.tasks, *limits.checking]:
        await asyncio.wait(tasks)
    sent = nats.client.stats["out_msgs"]
    for number in range(10):
        answer = await post(desk, "/v1/api/few", key, idempotency_key=f"more{number}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, 2002)
    assert nats.client.stats["out_msgs"] == sent
    window = await limits.counters.read(account, limits.policies["api"])
    assert window.totals == [3, 0]
    again = await post(desk, "/v1/api/few", key, idempotency_key="first")
    assert (again.status_code, again.content) == (200, first.content)


async def test_another_gateway_repeats_the_work_of_a_gateway_that_died(desk: Desk) -> None:
    _, key = await desk.key()

    async def die(*_: Any) -> Echo:
        raise asyncio.CancelledError

    database = desk.guards.idempotency.database
    desk.answer = die
    release = desk.guards.idempotency._release

    async def too_dead_to_release(*_: Any) -> None: ...

    desk.guards.idempotency._release = too_dead_to_release  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await post(desk, "/v1/api/echo", key, idempotency_key="crash")
    desk.answer, desk.guards.idempotency._release = None, release  # type: ignore[method-assign]
    assert (await post(desk, "/v1/api/echo", key, idempotency_key="crash")).status_code == 409
    async with database.connection() as connection:  # simulates an expired lease
        await connection.execute("update idempotency set leased_until = now() - interval '1 s'")
    answer = await post(desk, "/v1/api/echo", key, idempotency_key="crash")
    assert answer.status_code == 200
    (_, first), (_, second) = desk.calls
    assert first == second != ""


@pytest.mark.parametrize("followed", [200, 409])
async def test_a_stalled_gateway_answers_what_its_successor_answered(
    desk: Desk, followed: int
) -> None:
    _, key = await desk.key()
    go_on, calls = asyncio.Event(), 0

    async def answer(*_: Any) -> Echo:
        nonlocal calls
        calls += 1
        if calls == 1:
            await go_on.wait()
        elif followed == 409:
            raise Unavailable("later")
        return Echo(word="made", times=calls)

    desk.answer = answer
    first = asyncio.create_task(post(desk, "/v1/api/echo", key, idempotency_key="still"))
    while not calls:
        await asyncio.sleep(0.01)
    async with desk.guards.idempotency.database.connection() as connection:
        await connection.execute("update idempotency set leased_until = now() - interval '1 s'")
    second = await post(desk, "/v1/api/echo", key, idempotency_key="still")
    go_on.set()
    late_answer = await first
    assert late_answer.status_code == followed
    if followed == 200:
        assert late_answer.content == second.content
        assert late_answer.headers["idempotent-replayed"] == "true"


async def test_an_idempotency_key_can_be_reused_after_a_day(desk: Desk) -> None:
    _, key = await desk.key()
    await post(desk, "/v1/api/echo", key, {"word": "a"}, idempotency_key="day")
    async with desk.guards.idempotency.database.connection() as connection:
        await connection.execute("update idempotency set created_at = now() - interval '25 hours'")
    answer = await post(desk, "/v1/api/echo", key, {"word": "b"}, idempotency_key="day")
    assert answer.json()["data"]["word"] == "b"


async def test_a_repeat_after_a_day_creates_another_api_key_and_leaves_the_first(
    desk: Desk,
) -> None:
    account, _ = await desk.key()
    database = desk.guards.idempotency.database

    async def make(name: str) -> CreatedKey:
        context.current.set(Context("req_12345678", account, idempotency_key="digest"))
        return await desk.keyring.create(account, NewKey(name=name, scopes=["generate"]))

    async def wait_a_day() -> None:
        async with database.connection() as connection:
            await connection.execute("update keys set created_at = now() - interval '25 hours'")

    lost, first = await make("a"), await make("a")  # simulates a gateway that died with its answer
    assert lost.id == first.id
    assert [key.id for key in (await desk.keyring.list(account)).keys][1:] == [first.id]
    await wait_a_day()
    second = await make("b")
    assert (second.name, second.id == first.id) == ("b", False)
    await desk.keyring.revoke(account, second.id)
    third = await make("c")
    statuses = [
        (await post(desk, "/v1/api/echo", key_answer.key)).status_code
        for key_answer in (lost, first, second, third)
    ]
    assert statuses == [401, 200, 401, 200]


async def test_the_request_for_the_hundredth_api_key_can_be_repeated(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, _ = await desk.key()
    monkeypatch.setattr("gateway.keyring.MAX_KEYS", 2)
    context.current.set(Context("req_12345678", account, idempotency_key="digest"))
    ids = [(await desk.keyring.create(account, NewKey(name="last"))).id for _ in range(2)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
async def test_a_malformed_idempotency_key_is_refused(desk: Desk, key: str) -> None:
    _, bearer = await desk.key()
    async with desk.http() as http:
        answer = await http.post(
            "/v1/api/echo",
            json={},
            headers=[
                (b"Authorization", f"Bearer {bearer}".encode()),
                (b"Idempotency-Key", key.encode("latin-1")),
            ],
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 1003)


async def test_no_database_table_contains_an_api_key_in_plain_text(
    desk: Desk,
) -> None:
    _, key = await desk.key()
    async with desk.guards.idempotency.database.connection() as connection:
        tables = ("keys", "idempotency", "audit", "sessions", "socket_tokens", "accounts")
        for table in tables:
            cursor = await connection.execute(f"select t::text from {table} t".encode())
            for (row,) in await cursor.fetchall():
                assert key not in row
                assert key.encode().hex() not in row
