"""What clients see, through Envoy, on two replicas."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from socketio.exceptions import ConnectionError as Refused

from common.contracts.access import AUTHENTICATE, Access
from common.testing import MemoryBus
from realtime.sockets import Sockets

SEED = {"throughput": 1.5, "latency": 2.5, "memory_usage": 3.5}


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_a_recorded_metric_reaches_who_subscribed(others, watch, transports: list[str]):
    await others.record("acc1", "owner/model", tell=False, latency=1)
    watcher = await watch("acc1/key", transports=transports)
    assert await watcher.subscribe("owner/model") == {"status": "success"}
    at = await others.record("acc1", "owner/model", **SEED)
    [update] = await watcher.wait_for("metric_update")
    assert update == {"modelId": "owner/model", "timestamp": at, "metrics": SEED}


async def test_both_replicas_hear_the_same(stack, others, watch):
    await others.record("acc1", "m", tell=False, latency=1)
    urls = [f"http://{host}:{port}" for host, port in stack.addresses["realtime"]]
    watchers = [await watch("acc1/key", url) for url in urls]
    for watcher in watchers:
        await watcher.subscribe("m")
    await others.record("acc1", "m", latency=2)
    for watcher in watchers:
        [update] = await watcher.wait_for("metric_update")
        assert update["metrics"] == {"latency": 2}


async def test_a_replica_decodes_only_what_its_own_clients_want(stack, others, watch):
    await others.record("acc8", "m", tell=False, latency=1)
    urls = [f"http://{host}:{port}" for host, port in stack.addresses["realtime"]]

    async def decoded(http: aiohttp.ClientSession) -> list[int]:
        answers = [await http.get(f"{url}/readyz") for url in urls]
        return [(await answer.json())["data"]["decoded"] for answer in answers]

    watchers = [await watch("acc8/key", urls[0]) for _ in range(3)]
    for watcher in watchers:
        await watcher.subscribe("m")
    async with aiohttp.ClientSession() as http:
        before = await decoded(http)
        for number in range(20):
            await others.record("acc8", "m", **{f"n{number}": 1})
        await others.record("acc8", "nobody-asked", latency=1)
        for watcher in watchers:
            await watcher.wait_for("metric_update", 20)
        after = await decoded(http)
    # Once for all three clients, and not at all where there are none.
    assert [b - a for a, b in zip(before, after, strict=True)] == [20, 0]


async def test_metrics_that_were_not_asked_for_stay_away(others, watch):
    await others.record("acc1", "m", tell=False, latency=1)
    watcher = await watch("acc1/key")
    await watcher.subscribe("m", metrics=["latency", "power"])
    await others.record("acc1", "m", throughput=1)
    await others.record("acc1", "m", throughput=2, latency=7)
    [update] = await watcher.wait_for("metric_update")
    assert update["metrics"] == {"latency": 7}


async def test_after_unsubscribing_nothing_is_heard(others, watch):
    await others.record("acc1", "m", tell=False, latency=1)
    watcher = await watch("acc1/key")
    await watcher.subscribe("m")
    assert await watcher.call("unsubscribe_metrics", {"modelId": "m"}) == {"status": "success"}
    assert (await watcher.call("unsubscribe_metrics", {"modelId": "m"}))["code"] == 3001
    await others.record("acc1", "m", latency=2)
    await others.alert("acc1", "m", "marker")
    await watcher.wait_for("alert")
    assert watcher.of("metric_update") == []


async def test_somebody_elses_model_looks_like_none(others, watch):
    await others.record("acc1", "secret", tell=False, latency=1)
    stranger = await watch("acc2/key")
    refusal = await stranger.subscribe("secret")
    assert refusal == await stranger.subscribe("nothing-at-all")
    assert refusal["status"] == "error"
    assert refusal["code"] == 3001
    await others.record("acc1", "secret", latency=2)
    await others.alert("acc2", "x", "marker")
    await stranger.wait_for("alert")
    assert stranger.of("metric_update") == []


async def test_alerts_and_benchmarks_of_the_account_come_without_asking(others, watch):
    watcher, stranger = await watch("acc3/key"), await watch("acc4/key")
    await others.alert("acc3", "m", "latency_high")
    await others.progress("acc3", "run_1", 4)
    expected = {"modelId": "m", "type": "latency_high", "message": "!", "severity": "warning"}
    assert await watcher.wait_for("alert") == [expected]
    [progress] = await watcher.wait_for("benchmark_progress")
    assert progress == {"id": "run_1", "modelId": "m", "state": "running", "done": 4, "total": 9}
    await others.alert("acc4", "other", "marker")
    await stranger.wait_for("alert")
    assert stranger.heard[0][1]["modelId"] == "other"


@pytest.mark.parametrize(
    ("auth", "code"),
    [("nonsense", 2001), ("", 2001), ("acc1/none", 2003)],
)
async def test_a_refused_connection_says_why(others, new_watcher, auth: str, code: int):
    watcher = new_watcher(auth)
    with pytest.raises(Refused):
        await watcher.connect()
    assert watcher.refused["data"]["code"] == code
    assert watcher.refused["data"]["message"] == watcher.refused["message"]
    await watcher.close()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"modelId": ""},
        {"modelId": 5},
        {"modelId": "m", "metrics": []},
        {"modelId": "m", "metrics": ["No"]},
        {"modelId": "m", "since": "yesterday"},
        {"modelId": "m", "extra": 1},
        {"modelId": "\ud800"},
        {"modelId": 1 << 64},
    ],
)
async def test_a_wrong_wish_is_answered_with_what_is_wrong(others, watch, wrong: Any):
    watcher = await watch("acc1/key")
    answer = await watcher.call("subscribe_metrics", wrong)
    assert (answer["status"], answer["code"]) == ("error", 1003)
    assert answer["message"]


async def test_who_asks_for_no_acknowledgement_is_told_by_an_event(others, watch):
    watcher = await watch("acc1/key")
    await watcher.client.emit("subscribe_metrics", {"modelId": "nothing-at-all"})
    [error] = await watcher.wait_for("error")
    assert error["code"] == 3001


async def test_an_unknown_event_is_told_then_closed(others, watch):
    watcher = await watch("acc1/key")
    answer = await watcher.call("make_coffee", {})
    assert answer["code"] == 1003
    [error] = await watcher.wait_for("error")
    assert "subscribe_metrics" in error["message"]
    await asyncio.wait_for(watcher.disconnected.wait(), 30)


@pytest.mark.parametrize("name", [["subscribe_metrics"], {}, None, 5])
async def test_an_event_whose_name_is_none_is_told_then_closed(others, watch, name: Any):
    watcher = await watch("acc1/key", transports=["websocket"])
    await watcher.client.eio.send("2" + json.dumps([name]))
    [error] = await watcher.wait_for("error")
    assert (error["code"], "subscribe_metrics" in error["message"]) == (1003, True)
    await asyncio.wait_for(watcher.disconnected.wait(), 30)


async def test_a_message_to_a_connection_that_has_ended_is_refused(stack, others):
    address = f"{stack.url}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http:
        async with http.get(address) as answer:
            id = json.loads((await answer.text())[1:])["sid"]
        for message, status in (("1", 200), ("40", 400), ("40", 400)):
            async with http.post(f"{address}&sid={id}", data=message) as answer:
                assert answer.status == status, message


async def test_nothing_stays_of_a_client_that_goes_while_it_is_let_in():
    async def authenticate(_):
        return Access(account="a", key="k", scopes=["monitor:read"])

    async def claim(account, _lost):
        return account

    async def release(_slot):
        pass

    async def enter(_account, client):  # and meanwhile its connection ends
        await sockets._close(client.id, "transport close")

    bus = MemoryBus()
    bus.answer(AUTHENTICATE, authenticate)
    sockets = Sockets(bus, SimpleNamespace(claim=claim, release=release), "http://127.0.0.1:8080")
    sockets.topics.enter, sockets.topics.exit = enter, lambda *_: None
    sockets.server.eio.sockets["one"] = SimpleNamespace(
        queue=asyncio.Queue(), receive=None, closed=True
    )
    await sockets._open("one", {})
    await sockets.server._handle_connect("one", "/", {"token": "t"})
    assert not sockets.clients
    assert not list(sockets.server.manager.get_namespaces())
