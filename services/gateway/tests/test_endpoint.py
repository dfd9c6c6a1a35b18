"""What stands between the door and a handler, tried at the ASGI door."""

import asyncio
import re
import secrets
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common import context
from common.bus import NatsBus
from common.context import Context
from common.contracts import Message
from common.contracts.access import KEY_REVOKED, Credentials, KeyRevoked
from common.errors import ModelRefused, NotFound, Unauthenticated, Unavailable
from gateway import bodies, versions
from gateway.accounts import AccountChange
from gateway.counters import Policy
from gateway.endpoint import Door
from gateway.keyring import CreatedKey, KeyChange, NewKey
from gateway.versions import Deprecation

from .conftest import Desk, Echo

LARGE = b'{"email": "%b"}' % (b"x" * 20_000)
IS_JSON = {"Content-Type": "application/json"}


async def post(desk: Desk, path: str, key: str, body: Any = None, **headers: str) -> Any:
    async with desk.http() as http:
        told = {"Authorization": f"Bearer {key}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await http.post(path, json=body or {"word": "x"}, headers=told)


async def test_every_authenticated_answer_says_where_the_limit_stands(desk: Desk) -> None:
    _, key = await desk.key()
    _, narrow = await desk.key(scopes=["benchmark"])
    for answer in (
        await post(desk, "/v1/api/echo", key),
        await post(desk, "/v1/api/echo", key, {"unknown": 1}),
        await post(desk, "/v1/api/echo", narrow),
        await post(desk, "/v2/api/echo", key),
    ):
        assert answer.headers["ratelimit-policy"] == '"api";q=100000;w=60'
        assert answer.headers["x-ratelimit-limit"] == "100000"


async def test_the_dashboard_is_counted_like_a_request_and_refuses_with_a_page(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    person = {"email": email, "password": "correct horse battery"}
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        await http.post("/v1/api/accounts", json=person)
        cookie = (await http.post("/login", data=person)).headers["set-cookie"].partition(";")[0]
        monkeypatch.setitem(desk.guards.limits.policies, "api", Policy("api", 2))
        page = await http.get("/dashboard", headers={"Cookie": cookie})
        assert (page.status_code, page.headers["x-ratelimit-remaining"]) == (200, "1")
        form = {"url": "/dashboard/beta", "data": {"beta": "on"}, "headers": {"Cookie": cookie}}
        assert (await http.post(**form)).status_code == 303
        refused = await http.post(**form)
    assert refused.status_code == 429
    assert refused.headers["content-type"].startswith("text/html")
    assert "more than 2 requests" in refused.text.lower()
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-remaining"] == "0"


async def test_a_key_without_the_scope_is_told_which_one_it_lacks(desk: Desk) -> None:
    _, key = await desk.key(scopes=["benchmark", "monitor:read"])
    answer = await post(desk, "/v1/api/echo", key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, 2003)
    assert answer.json()["error"]["details"] == {"scope": "generate"}
    assert desk.calls == []


async def test_attempts_to_register_count_before_they_are_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(desk.guards.limits.policies, "register", Policy("register", 4))
    address = {"X-Forwarded-For": f"2001:db8::{secrets.token_hex(2)}"}
    async with desk.http(headers=address) as http:
        wrong = [await http.post("/v1/api/accounts", json={"no": 1}) for _ in range(2)]
        page = await http.post("/register", data={"email": "x"})
        large = await http.post("/v1/api/accounts", content=LARGE, headers=IS_JSON)
        refused = [
            await http.post("/v1/api/accounts", content=LARGE, headers=IS_JSON),
            await http.post("/register", data={"email": "x"}),
        ]
    assert [answer.status_code for answer in (*wrong, page, large)] == [400, 400, 403, 413]
    assert [answer.status_code for answer in refused] == [429, 429]
    assert wrong[0].headers["ratelimit-policy"] == '"register";q=4;w=60'


async def test_a_body_of_nothing_but_faults_gets_a_short_answer(desk: Desk) -> None:
    _, key = await desk.key()
    for body in ({f"u{n}": 1 for n in range(200)}, {f"u{n}": 1 for n in range(9000)}):
        answer = await post(desk, "/v1/api/echo", key, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, 1003)
        assert len(answer.content) < 1000


async def test_while_a_large_body_is_read_others_are_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await desk.key()
    reading, read_on = asyncio.Event(), threading.Event()
    loop, parse = asyncio.get_running_loop(), bodies.parse

    def slowly(body: bytes, model: type[Message]) -> Message:
        if len(body) > bodies.LARGE:
            loop.call_soon_threadsafe(reading.set)
            assert read_on.wait(60)
        return parse(body, model)

    monkeypatch.setattr(bodies, "parse", slowly)
    large = asyncio.create_task(post(desk, "/v1/api/many", key, {"word": "x" * 200_000}))
    await reading.wait()
    assert (await post(desk, "/v1/api/echo", key)).status_code == 200
    read_on.set()
    assert (await large).status_code == 200


async def test_a_repeated_request_is_answered_with_what_the_first_was(desk: Desk) -> None:
    _, key = await desk.key()
    first = await post(desk, "/v1/api/echo", key, idempotency_key="one")
    again = await post(desk, "/api/echo", key, idempotency_key="one")
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(desk.calls) == 1


async def test_fifty_at_once_are_done_once(desk: Desk) -> None:
    _, key = await desk.key()
    desk.guards.capacity.most_per_account = 100
    desk.guards.capacity.most = 100
    answers = await asyncio.gather(
        *(post(desk, "/v1/api/echo", key, idempotency_key="fifty") for _ in range(50))
    )
    assert len(desk.calls) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1


async def test_while_the_first_is_under_way_the_second_is_told_to_wait(desk: Desk) -> None:
    _, key = await desk.key()
    let_go, begun = asyncio.Event(), asyncio.Event()

    async def slowly(*_: Any) -> Echo:
        begun.set()
        await let_go.wait()
        return Echo(word="slow", times=1)

    desk.answer = slowly
    first = asyncio.create_task(post(desk, "/v1/api/echo", key, idempotency_key="slow"))
    await begun.wait()
    second = await post(desk, "/v1/api/echo", key, idempotency_key="slow")
    assert (second.status_code, second.json()["error"]["code"]) == (409, 3002)
    assert second.headers["retry-after"] == "1"
    let_go.set()
    assert (await first).status_code == 200


async def test_the_same_key_with_another_body_or_endpoint_is_refused(desk: Desk) -> None:
    _, key = await desk.key()
    await post(desk, "/v1/api/echo", key, {"word": "a"}, idempotency_key="k")
    for path, body in (("/v1/api/echo", {"word": "b"}), ("/v1/api/few", {"word": "a"})):
        answer = await post(desk, path, key, body, idempotency_key="k")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, 3002)
    assert len(desk.calls) == 1


async def test_one_accounts_key_means_nothing_to_another(desk: Desk) -> None:
    (_, one), (_, other) = await desk.key(), await desk.key()
    for key in (one, other):
        answer = await post(desk, "/v1/api/echo", key, idempotency_key="shared")
        assert "idempotent-replayed" not in answer.headers
    (_, first), (_, second) = desk.calls
    assert first != second


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ModelRefused("no"), True),
        (Unavailable("away"), False),
        (RuntimeError("broken"), False),
    ],
)
async def test_a_refusal_is_kept_and_a_failure_is_not(
    desk: Desk, error: Exception, kept: bool
) -> None:
    _, key = await desk.key()

    async def fail(*_: Any) -> Echo:
        raise error

    desk.answer = fail
    first = await post(desk, "/v1/api/echo", key, idempotency_key="fails")
    desk.answer = None
    second = await post(desk, "/v1/api/echo", key, idempotency_key="fails")
    assert (second.content == first.content) is kept
    assert second.status_code == (422 if kept else 200)


async def test_a_key_that_comes_with_another_body_after_a_failure_is_another_request(
    desk: Desk,
) -> None:
    """The work may have been done all the same, and whoever did it remembers the request."""
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


async def test_what_is_not_found_is_noted_with_an_idempotency_key_as_without(desk: Desk) -> None:
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


async def test_large_bodies_are_understood_one_after_the_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await desk.key()
    parse, under_way, most = bodies.parse, threading.Semaphore(0), 0

    def watched(body: bytes, model: Any) -> Any:
        nonlocal most
        under_way.release()
        most = max(most, under_way._value)
        threading.Event().wait(0.05)
        under_way.acquire()
        return parse(body, model)

    monkeypatch.setattr(bodies, "parse", watched)
    body = {"word": "x" * 200_000}
    answers = await asyncio.gather(
        *(post(desk, "/v1/api/many", key, body) for _ in range(4)),
    )
    assert {answer.status_code for answer in answers} == {200}
    assert most == 1


async def test_a_replay_counts_as_a_request_but_not_as_the_work(desk: Desk) -> None:
    _, key = await desk.key()
    for _ in range(5):
        answer = await post(desk, "/v1/api/few", key, idempotency_key="cheap")
        assert answer.status_code == 200
    statuses = [(await post(desk, "/v1/api/few", key)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_who_is_over_a_limit_pays_nothing_for_requests_with_a_key_either(
    desk: Desk, nats: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Too few to be fetched ahead: those would come and go by themselves.
    monkeypatch.setitem(desk.guards.limits.policies, "api", Policy("api", 100))
    account, key = await desk.key()
    first = await post(desk, "/v1/api/few", key, idempotency_key="first")
    statuses = [
        (await post(desk, "/v1/api/few", key, idempotency_key=f"few{n}")).status_code
        for n in range(4)
    ]
    assert statuses == [200, 200, 429, 429]
    limits = desk.guards.limits
    while tasks := limits.counters.tasks | limits._looking:
        await asyncio.wait(tasks)
    sent = nats.client.stats["out_msgs"]
    for number in range(10):
        answer = await post(desk, "/v1/api/few", key, idempotency_key=f"more{number}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, 2002)
    assert nats.client.stats["out_msgs"] == sent
    counts = await limits.counters.read(account, limits.policies["api"])
    assert sum(counts.values()) == 3
    again = await post(desk, "/v1/api/few", key, idempotency_key="first")
    assert (again.status_code, again.content) == (200, first.content)


async def test_a_gateway_that_died_with_the_work_is_followed_by_another(desk: Desk) -> None:
    _, key = await desk.key()

    async def die(*_: Any) -> Echo:
        raise asyncio.CancelledError

    database = desk.guards.idempotency.database
    desk.answer = die
    let_go = desk.guards.idempotency._let_go

    async def too_dead_to_let_go(*_: Any) -> None: ...

    desk.guards.idempotency._let_go = too_dead_to_let_go  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await post(desk, "/v1/api/echo", key, idempotency_key="crash")
    desk.answer, desk.guards.idempotency._let_go = None, let_go  # type: ignore[method-assign]
    assert (await post(desk, "/v1/api/echo", key, idempotency_key="crash")).status_code == 409
    async with database.connection() as connection:  # as when the lease has run out
        await connection.execute("update idempotency set leased_until = now() - interval '1 s'")
    answer = await post(desk, "/v1/api/echo", key, idempotency_key="crash")
    assert answer.status_code == 200
    (_, first), (_, second) = desk.calls
    assert first == second != ""


@pytest.mark.parametrize("followed", [200, 409])
async def test_a_gateway_that_stood_still_says_what_the_one_that_took_over_says(
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
    told = await first
    assert told.status_code == followed
    if followed == 200:
        assert told.content == second.content
        assert told.headers["idempotent-replayed"] == "true"


async def test_a_key_is_free_again_after_a_day(desk: Desk) -> None:
    _, key = await desk.key()
    await post(desk, "/v1/api/echo", key, {"word": "a"}, idempotency_key="day")
    async with desk.guards.idempotency.database.connection() as connection:
        await connection.execute("update idempotency set created_at = now() - interval '25 hours'")
    answer = await post(desk, "/v1/api/echo", key, {"word": "b"}, idempotency_key="day")
    assert answer.json()["data"]["word"] == "b"


async def test_a_request_of_the_day_before_makes_another_api_key_and_leaves_the_first(
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

    lost, first = await make("a"), await make("a")  # as when the gateway died with its answer
    assert lost.id == first.id
    assert [key.id for key in (await desk.keyring.list(account)).keys][1:] == [first.id]
    await wait_a_day()
    second = await make("b")
    assert (second.name, second.id == first.id) == ("b", False)
    await desk.keyring.revoke(account, second.id)
    third = await make("c")
    statuses = [
        (await post(desk, "/v1/api/echo", made.key)).status_code
        for made in (lost, first, second, third)
    ]
    assert statuses == [401, 200, 401, 200]


async def test_the_hundredth_api_key_is_made_again_as_any_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, _ = await desk.key()
    monkeypatch.setattr("gateway.keyring.MOST_KEYS", 2)
    context.current.set(Context("req_12345678", account, idempotency_key="digest"))
    made = [(await desk.keyring.create(account, NewKey(name="last"))).id for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
async def test_an_idempotency_key_that_is_none_is_refused(desk: Desk, key: str) -> None:
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


async def test_what_is_stored_of_a_new_key_cannot_be_read_from_the_database(desk: Desk) -> None:
    _, key = await desk.key()
    async with desk.guards.idempotency.database.connection() as connection:
        tables = ("keys", "idempotency", "audit", "sessions", "socket_tokens", "accounts")
        for table in tables:
            cursor = await connection.execute(f"select t::text from {table} t".encode())
            for (row,) in await cursor.fetchall():
                assert key not in row
                assert key.encode().hex() not in row


async def test_beyond_its_share_an_account_is_told_at_once_and_others_are_served(
    desk: Desk,
) -> None:
    (_, greedy), (_, other) = await desk.key(), await desk.key()
    let_go = asyncio.Event()

    async def wait(call: Any, body: Any) -> Echo:
        if body.word == "wait":
            await let_go.wait()
        return Echo(word=body.word, times=0)

    desk.answer = wait
    waiting = [
        asyncio.create_task(post(desk, "/v1/api/echo", greedy, {"word": "wait"})) for _ in range(5)
    ]
    while len(desk.calls) < 5:
        await asyncio.sleep(0)
    refused = await post(desk, "/v1/api/echo", greedy)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, 5003)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["ratelimit-policy"] == '"api";q=100000;w=60'  # nothing was counted
    assert (await post(desk, "/v1/api/echo", other)).status_code == 200
    let_go.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert desk.guards.capacity.taken == 0


async def test_who_waits_for_work_elsewhere_takes_no_place_and_only_so_many_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, patient), (_, other), (_, third) = [await desk.key() for _ in range(3)]
    monkeypatch.setattr("gateway.capacity.MOST_HELD", 12)
    desk.guards.capacity.most = 1
    done = asyncio.Event()

    async def work(*_: Any) -> Echo:
        await done.wait()
        return Echo(word="done", times=1)

    async def wait(key: str) -> Any:
        answer = await post(desk, "/v1/api/wait", key)
        return answer.status_code, answer.json()["data"]["word"]

    desk.answer = work
    waiting = []
    for key in [patient] * 10 + [other] * 2:
        waiting.append(asyncio.create_task(wait(key)))
        while len(desk.calls) < len(waiting):
            await asyncio.sleep(0)
    # One more of the account, and one more of anybody, are answered as it is now.
    assert [await wait(patient), await wait(third)] == [(200, ""), (200, "")]
    assert (await post(desk, "/v1/api/many", third)).status_code == 200
    done.set()
    assert set(await asyncio.gather(*waiting)) == {(200, "done")}
    assert (await wait(patient)) == (200, "done")
    assert (desk.guards.capacity.taken, desk.guards.capacity._accounts) == (0, {})


async def test_when_all_is_taken_only_health_answers(desk: Desk) -> None:
    _, key = await desk.key()
    desk.guards.capacity.most = 0
    assert (await post(desk, "/v1/api/echo", key)).status_code == 503
    async with desk.http() as http:
        assert (await http.get("/login")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


async def test_what_is_deprecated_says_so_and_until_when(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving = Deprecation(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), "/docs"
    )
    monkeypatch.setitem(versions.DEPRECATED, ("POST", "/echo", "v1"), leaving)
    door = desk.gateway.doors["POST", "/v1/api/echo"]
    desk.gateway.doors["POST", "/v1/api/echo"] = Door(door.endpoint, door.guards)
    _, key = await desk.key()
    answer = await post(desk, "/v1/api/echo", key)
    assert answer.headers["deprecation"] == "@1767225600"
    assert answer.headers["sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
    assert 'rel="deprecation"' in answer.headers["link"]
    assert "deprecation" not in (await post(desk, "/api/echo", key)).headers


async def test_v2_answers_with_the_header_or_the_accounts_switch_only(desk: Desk) -> None:
    account, key = await desk.key()
    refused = await post(desk, "/v2/api/echo", key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, 2003)
    assert "X-Lilypad-Beta: v2" in refused.json()["error"]["message"]
    assert refused.json()["meta"]["version"] == "v2"
    assert (await post(desk, "/v2/api/echo", key, x_lilypad_beta="v2")).status_code == 200
    assert (await post(desk, "/v2/api/echo", key, x_lilypad_beta="v3")).status_code == 403
    async with desk.guards.accounts.database.connection() as connection:
        await connection.execute("update accounts set beta = true where id = %s", [account])
    assert (await post(desk, "/v2/api/echo", key)).status_code == 200
    second = (await desk.keyring.create(account, NewKey(name="first used with v2 on"))).key
    assert (await post(desk, "/v2/api/echo", second)).status_code == 200
    await desk.guards.accounts.change(account, AccountChange(beta=False))
    for one in (key, second):
        assert (await post(desk, "/v2/api/echo", one)).status_code == 403


async def test_v2_has_every_route_of_v1(desk: Desk) -> None:
    paths = desk.gateway.app.openapi()["paths"]
    first = {path[3:]: set(ways) for path, ways in paths.items() if path.startswith("/v1/")}
    second = {path[3:]: set(ways) for path, ways in paths.items() if path.startswith("/v2/")}
    assert first == second


async def test_a_revoked_key_is_refused_at_once_where_the_event_arrives(desk: Desk) -> None:
    account, key = await desk.key()
    assert (await post(desk, "/v1/api/echo", key)).status_code == 200
    [made] = (await desk.keyring.list(account)).keys
    await desk.keyring.revoke(account, made.id)
    subject, event = desk.events.published[-1]
    assert subject == f"{KEY_REVOKED.subject}.{account}.{made.id}"
    assert isinstance(event, KeyRevoked)
    assert event.scopes == []
    await desk.guards.authentication.forget(event)
    assert (await post(desk, "/v1/api/echo", key)).status_code == 401


async def test_a_key_is_over_when_it_expires_also_where_it_was_just_used(desk: Desk) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    _, key = await desk.key(expires_at=end)
    assert (await post(desk, "/v1/api/echo", key)).status_code == 200
    await asyncio.sleep((end - datetime.now(UTC)).total_seconds() + 0.1)
    assert (await post(desk, "/v1/api/echo", key)).status_code == 401


async def test_for_a_socket_that_is_there_the_database_is_asked_whatever_was_told(
    desk: Desk,
) -> None:
    account, key = await desk.key()
    authentication = desk.guards.authentication
    connected = Credentials(token=key, connected=True)
    assert (await authentication.check(connected)).account == account
    [made] = (await desk.keyring.list(account)).keys
    await desk.keyring.revoke(account, made.id)  # and the event is lost
    with pytest.raises(Unauthenticated):
        await authentication.check(connected)


async def test_a_changed_key_is_told_with_what_it_may_still(desk: Desk) -> None:
    account, _ = await desk.key()
    [made] = (await desk.keyring.list(account)).keys
    for change, scopes in (
        (KeyChange(scopes=["generate", "monitor:read"]), ["generate", "monitor:read"]),
        (KeyChange(expires_at=None), ["generate", "monitor:read"]),
    ):
        await desk.keyring.change(account, made.id, change)
        _, event = desk.events.published[-1]
        assert event == KeyRevoked(account=account, key=made.id, scopes=scopes)


async def test_a_mistyped_key_is_refused_without_the_database(desk: Desk) -> None:
    await desk.guards.authentication.database.pool.close()
    with pytest.raises(Unauthenticated, match="copied whole"):
        await desk.guards.authentication.authenticate("lmg_live_" + "a" * 36)


async def test_the_last_use_is_written_later_and_for_many_at_once(desk: Desk) -> None:
    account, key = await desk.key()
    await post(desk, "/v1/api/echo", key)
    [before] = (await desk.keyring.list(account)).keys
    assert before.last_used_at is None
    await desk.guards.authentication.write_last_use()
    [after] = (await desk.keyring.list(account)).keys
    assert after.last_used_at is not None


async def test_every_answer_has_the_headers_that_keep_browsers_from_harm(desk: Desk) -> None:
    _, key = await desk.key()
    async with desk.http() as http:
        answers = [await http.get(path) for path in ("/", "/login", "/nothing", "/v1/api/echo")]
    answers.append(await post(desk, "/v1/api/echo", key))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert re.fullmatch(r"[A-Za-z0-9_-]{8,64}", answer.headers["x-request-id"])


@pytest.mark.parametrize("scheme", [b"Basic", b"Bearer"])
@pytest.mark.parametrize("credentials", [b"\xe9", b"", b"!", b"YTpi\xff", b"/w==", b"YQ=="])
async def test_credentials_that_are_none_are_a_401(
    desk: Desk, scheme: bytes, credentials: bytes
) -> None:
    headers = [(b"Authorization", scheme + b" " + credentials)]
    async with desk.http() as http:
        answers = [
            await http.get("/v1/api/keys", headers=headers),
            await http.post("/v1/api/echo", headers=headers),
        ]
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(401, 2001)}


@pytest.mark.parametrize("act", ["rename", "revoke"])
async def test_what_no_key_can_be_called_is_refused_with_a_page(desk: Desk, act: str) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"}
    async with desk.http(headers={"Sec-Fetch-Site": "same-origin"}) as http:
        await http.post("/v1/api/accounts", json=person)
        cookie = (await http.post("/login", data=person)).headers["set-cookie"].partition(";")[0]
        for key, status in (("a%00b", 400), ("a" * 513, 400), ("key_0", 404)):
            answer = await http.post(
                f"/dashboard/keys/{key}/{act}", data={"name": "x"}, headers={"Cookie": cookie}
            )
            assert answer.status_code == status
            assert answer.headers["content-type"].startswith("text/html")


async def test_every_page_answers_head_and_says_which_methods_it_takes(desk: Desk) -> None:
    async with desk.http() as http:
        for path in ("/", "/docs", "/dashboard", "/openapi.json", "/static/style.css"):
            head = await http.head(path)
            assert (head.status_code, head.content) in ((200, b""), (303, b"")), path
            assert head.headers["content-type" if head.status_code == 200 else "location"]
            other = await http.put(path)
            assert (other.status_code, other.headers["allow"]) == (405, "GET, HEAD"), path


async def test_of_large_bodies_that_come_at_once_one_is_in_memory(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await desk.key()
    begun, read_on, read, parse = 0, threading.Event(), bodies.read, bodies.parse

    async def begin(*arguments: Any) -> bytes:
        nonlocal begun
        begun += 1
        return await read(*arguments)

    def slowly(body: bytes, model: type[Message]) -> Message:
        assert read_on.wait(60)
        return parse(body, model)

    monkeypatch.setattr(bodies, "read", begin)
    monkeypatch.setattr(bodies, "parse", slowly)
    many = [
        asyncio.create_task(post(desk, "/v1/api/many", key, {"word": "x" * 200_000}))
        for _ in range(4)
    ]
    while not begun:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    waiting = begun
    read_on.set()
    assert {(await one).status_code for one in many} == {200}
    assert (waiting, begun) == (1, 4)
