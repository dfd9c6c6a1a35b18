"""The checks between the door and a handler, through the ASGI application."""

import asyncio
import re
import secrets
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from common.contracts import Message
from gateway import bodies, versions
from gateway.account_fields import AccountChange
from gateway.door import Door
from gateway.keyring import NewKey
from gateway.limits import Limits
from gateway.versions import Deprecation
from gateway.windows import Policy

from .conftest import Desk, Echo, post

LARGE = b'{"email": "%b"}' % (b"x" * 20_000)
IS_JSON = {"Content-Type": "application/json"}


async def test_every_authenticated_answer_carries_the_rate_limit_headers(desk: Desk) -> None:
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


async def test_a_visit_to_the_dashboard_counts_as_a_request_and_its_refusal_is_a_page(
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


async def test_registrations_are_counted_before_their_body_is_read(
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


async def test_a_body_with_thousands_of_faults_gets_a_short_answer(desk: Desk) -> None:
    _, key = await desk.key()
    for body in ({f"u{n}": 1 for n in range(200)}, {f"u{n}": 1 for n in range(9000)}):
        answer = await post(desk, "/v1/api/echo", key, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, 1003)
        assert len(answer.content) < 1000


async def test_other_requests_are_answered_while_a_large_body_is_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await desk.key()
    reading, read_on = asyncio.Event(), threading.Event()
    loop, parse = asyncio.get_running_loop(), bodies.parse

    def slowly(body: bytes, model: type[Message]) -> Message:
        if len(body) > bodies.LARGE_BODY_BYTES:
            loop.call_soon_threadsafe(reading.set)
            assert read_on.wait(60)
        return parse(body, model)

    monkeypatch.setattr(bodies, "parse", slowly)
    large = asyncio.create_task(post(desk, "/v1/api/many", key, {"word": "x" * 200_000}))
    await reading.wait()
    assert (await post(desk, "/v1/api/echo", key)).status_code == 200
    read_on.set()
    assert (await large).status_code == 200


async def test_large_bodies_are_parsed_one_after_the_other(
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


@pytest.mark.parametrize(("limit", "early"), [(100, True), (1, False)])
async def test_read_requests_far_below_the_limit_start_before_they_are_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: int, early: bool
) -> None:
    limits = desk.guards.limits
    monkeypatch.setattr(limits, "replicas", 2)
    monkeypatch.setitem(limits.policies, "api", Policy("api", limit))
    account, key = await desk.key()
    counted, send = asyncio.Event(), limits.counters.store.bus.send_request

    def hold(subject: str, *arguments: Any) -> Any:
        async def later() -> Any:
            await counted.wait()
            return await send(subject, *arguments)

        return asyncio.ensure_future(later())

    monkeypatch.setattr(limits.counters.store.bus, "send_request", hold)
    request = asyncio.create_task(post(desk, "/v1/api/harmless", key))
    while not (desk.calls or limits.counters.used(account, limits.policies["api"])):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert (len(desk.calls), request.done()) == (int(early), False)
    counted.set()
    answer = await request
    assert (answer.status_code, len(desk.calls)) == (200, 1)
    assert answer.headers["x-ratelimit-remaining"] == str(limit - 1)


async def test_a_request_over_its_limit_gets_429_even_if_its_early_work_succeeded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = desk.guards.limits
    account, key = await desk.key()
    monkeypatch.setitem(limits.policies, "api", Policy("api", 2))
    policy = limits.policies["api"]
    # Counted by another replica, which this one knows nothing about.
    elsewhere = Limits(limits.counters.store.bus, [policy])
    for _ in range(2):
        await elsewhere.admit(account, ["api"])
    answer = await post(desk, "/v1/api/harmless", key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, 2002)
    assert len(desk.calls) == 1
    assert (await post(desk, "/v1/api/harmless", key)).status_code == 429
    assert len(desk.calls) == 1


async def test_an_account_beyond_its_share_of_capacity_is_refused_at_once(
    desk: Desk,
) -> None:
    (_, greedy), (_, other) = await desk.key(), await desk.key()
    released = asyncio.Event()

    async def wait(call: Any, body: Any) -> Echo:
        if body.word == "wait":
            await released.wait()
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
    released.set()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert desk.guards.capacity.taken == 0


async def test_held_answers_use_no_capacity_and_their_number_is_bounded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, patient), (_, other), (_, third) = [await desk.key() for _ in range(3)]
    monkeypatch.setattr("gateway.capacity.MAX_HELD", 12)
    desk.guards.capacity.max_at_once = 1
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
    # One more of the same account, and one more of any account, are answered at once.
    assert [await wait(patient), await wait(third)] == [(200, ""), (200, "")]
    assert (await post(desk, "/v1/api/many", third)).status_code == 200
    done.set()
    assert set(await asyncio.gather(*waiting)) == {(200, "done")}
    assert (await wait(patient)) == (200, "done")
    assert (desk.guards.capacity.taken, desk.guards.capacity._accounts) == (0, {})


async def test_a_draining_gateway_sends_held_answers_at_once_and_holds_no_new_ones(
    desk: Desk,
) -> None:
    _, key = await desk.key()
    received = asyncio.Event()

    async def work(*_: Any) -> Echo:
        received.set()
        await asyncio.Event().wait()
        raise AssertionError

    desk.answer = work
    held = asyncio.create_task(post(desk, "/v1/api/wait", key))
    await received.wait()
    desk.guards.capacity.draining.set()
    answers = [await held, await post(desk, "/v1/api/wait", key)]
    assert [answer.json()["data"]["word"] for answer in answers] == ["", ""]
    assert answers[1].headers["connection"] == "close"
    assert (desk.guards.capacity.taken, desk.guards.capacity._accounts) == (0, {})


async def test_a_full_gateway_answers_only_health_checks(desk: Desk) -> None:
    _, key = await desk.key()
    desk.guards.capacity.max_at_once = 0
    assert (await post(desk, "/v1/api/echo", key)).status_code == 503
    async with desk.http() as http:
        assert (await http.get("/login")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


async def test_a_deprecated_endpoint_announces_its_end(
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


async def test_v2_needs_the_header_or_the_accounts_switch(desk: Desk) -> None:
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
    for used_key in (key, second):
        assert (await post(desk, "/v2/api/echo", used_key)).status_code == 403


async def test_v2_has_every_route_of_v1(desk: Desk) -> None:
    paths = desk.gateway.app.openapi()["paths"]
    first = {path[3:]: set(ways) for path, ways in paths.items() if path.startswith("/v1/")}
    second = {path[3:]: set(ways) for path, ways in paths.items() if path.startswith("/v2/")}
    assert first == second


async def test_every_answer_has_the_security_headers_for_browsers(desk: Desk) -> None:
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


@pytest.mark.parametrize("act", ["rename", "revoke"])
async def test_a_malformed_or_unknown_key_id_in_an_address_gets_an_error_page(
    desk: Desk, act: str
) -> None:
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


async def test_pages_and_files_answer_head_and_list_allowed_methods_in_a_405(desk: Desk) -> None:
    async with desk.http() as http:
        for path in ("/", "/docs", "/dashboard", "/openapi.json", "/static/style.css"):
            head = await http.head(path)
            assert (head.status_code, head.content) in ((200, b""), (303, b"")), path
            assert head.headers["content-type" if head.status_code == 200 else "location"]
            other = await http.put(path)
            assert (other.status_code, other.headers["allow"]) == (405, "GET, HEAD"), path


async def test_only_one_large_body_is_in_memory_at_a_time(
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
    assert {(await pending).status_code for pending in many} == {200}
    assert (waiting, begun) == (1, 4)
