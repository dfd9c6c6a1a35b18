"""The events of the public socket, through Envoy, on two replicas."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from socketio.exceptions import ConnectionError as Refused

from common.contracts.access import AUTHENTICATE, Access
from common.testing import MemoryBus
from realtime.origins import Origins
from realtime.sockets import Sockets

SEED = {"throughput": 1.5, "latency": 2.5, "memory_usage": 3.5}


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_a_recorded_metric_reaches_its_subscriber(others, watch, transports: list[str]):
    await others.record("acc1", "owner/model", tell=False, latency=1)
    watcher = await watch("acc1/key", transports=transports)
    # The address of a model names the same model as its id.
    address = "https://huggingface.co/owner/model"
    assert await watcher.subscribe(address) == {"status": "success"}
    at = await others.record("acc1", "owner/model", **SEED)
    [update] = await watcher.wait_for("metric_update")
    assert update == {"modelId": "owner/model", "timestamp": at, "metrics": SEED}


async def test_both_replicas_deliver_the_same_update(stack, others, watch):
    await others.record("acc1", "m", tell=False, latency=1)
    urls = [f"http://{host}:{port}" for host, port in stack.addresses["realtime"]]
    watchers = [await watch("acc1/key", url) for url in urls]
    for watcher in watchers:
        await watcher.subscribe("m")
    await others.record("acc1", "m", latency=2)
    for watcher in watchers:
        [update] = await watcher.wait_for("metric_update")
        assert update["metrics"] == {"latency": 2}


async def test_a_replica_decodes_only_events_that_its_own_clients_follow(stack, others, watch):
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
    # Once for all three clients, and not at all on the replica without any.
    assert [b - a for a, b in zip(before, after, strict=True)] == [20, 0]


async def test_only_selected_metrics_are_delivered(others, watch):
    await others.record("acc1", "m", tell=False, latency=1)
    watcher = await watch("acc1/key")
    await watcher.subscribe("m", metrics=["latency", "power"])
    await others.record("acc1", "m", throughput=1)
    await others.record("acc1", "m", throughput=2, latency=7)
    [update] = await watcher.wait_for("metric_update")
    assert update["metrics"] == {"latency": 7}


async def test_nothing_is_delivered_after_unsubscribing(others, watch):
    await others.record("acc1", "m", tell=False, latency=1)
    watcher = await watch("acc1/key")
    await watcher.subscribe("m")
    assert await watcher.call("unsubscribe_metrics", {"modelId": "m"}) == {"status": "success"}
    assert (await watcher.call("unsubscribe_metrics", {"modelId": "m"}))["code"] == 3001
    await others.record("acc1", "m", latency=2)
    await others.alert("acc1", "m", "marker")
    await watcher.wait_for("alert")
    assert watcher.of("metric_update") == []


async def test_another_accounts_model_looks_like_an_unrecorded_model(others, watch):
    await others.record("acc1", "secret", tell=False, latency=1)
    stranger = await watch("acc2/key")
    answer = await stranger.subscribe("secret")
    assert answer == await stranger.subscribe("nothing-at-all") == {"status": "success"}
    await others.record("acc1", "secret", latency=2)
    await others.alert("acc2", "x", "marker")
    await stranger.wait_for("alert")
    assert stranger.of("metric_update") == []


async def test_alerts_and_benchmarks_need_no_subscription(others, watch):
    watcher, stranger = await watch("acc3/key"), await watch("acc4/key")
    await others.alert("acc3", "m", "latency_high")
    await others.progress("acc3", "run_1", 4)
    expected = {"modelId": "m", "type": "latency_high", "message": "!", "severity": "warning"}
    expected["ruleId"] = "latency"
    assert await watcher.wait_for("alert") == [expected]
    [progress] = await watcher.wait_for("benchmark_progress")
    assert progress == {"id": "run_1", "modelId": "m", "state": "running", "done": 4, "total": 9}
    await others.alert("acc4", "other", "marker")
    await stranger.wait_for("alert")
    assert stranger.received[0][1]["modelId"] == "other"


@pytest.mark.parametrize(
    ("auth", "code"),
    [("nonsense", 2001), ("", 2001), ("acc1/none", 2003)],
)
async def test_a_refused_connection_carries_the_reason(others, new_watcher, auth: str, code: int):
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
async def test_an_invalid_subscription_is_answered_with_the_reason(others, watch, wrong: Any):
    watcher = await watch("acc1/key")
    answer = await watcher.call("subscribe_metrics", wrong)
    assert (answer["status"], answer["code"]) == ("error", 1003)
    assert answer["message"]


async def test_an_unknown_field_of_a_subscription_is_answered_with_the_nearest_field(others, watch):
    watcher = await watch("acc1/key")
    answer = await watcher.call("subscribe_metrics", {"modelid": "m"})
    assert answer["message"] == "modelid: unknown field; did you mean `modelId`?"
    answer = await watcher.call("subscribe_metrics", {})
    assert answer["message"] == 'modelId: required and missing; for example "openai/gpt2"'


async def test_an_error_without_an_acknowledgement_arrives_as_an_event(others, watch):
    watcher = await watch("acc1/key")
    await watcher.client.emit("subscribe_metrics", {"modelId": 5})
    [error] = await watcher.wait_for("error")
    assert error["code"] == 1003


@pytest.mark.parametrize(
    "options", [{}, {"cursor": True}, {"since": "2026-01-01T00:00:00Z"}], ids=str
)
async def test_a_subscription_before_the_first_record_delivers_it(others, watch, options: Any):
    model = f"new-{len(str(options))}"
    watcher = await watch("acc9/key")
    answer = await watcher.subscribe(model, **options)
    assert answer["status"] == "success"
    assert answer.get("complete", True)
    at = await others.record("acc9", model, **SEED)
    [update] = await watcher.wait_for("metric_update")
    assert (update["timestamp"], update["metrics"]) == (at, SEED)
    if answer.get("cursor"):
        await others.record("acc9", model, tell=False, missed=1)
        again = await watch("acc9/key")
        await again.subscribe(model, since=answer["cursor"])
        assert [set(received["metrics"]) for received in again.of("metric_update")] == [
            set(SEED),
            {"missed"},
        ]


async def test_an_unknown_event_gets_an_error_and_a_disconnect(others, watch):
    watcher = await watch("acc1/key")
    answer = await watcher.call("make_coffee", {})
    assert answer["code"] == 1003
    [error] = await watcher.wait_for("error")
    assert "subscribe_metrics" in error["message"]
    await asyncio.wait_for(watcher.disconnected.wait(), 30)


@pytest.mark.parametrize("name", [["subscribe_metrics"], {}, None, 5])
async def test_an_event_without_a_valid_name_gets_an_error_and_a_disconnect(
    others, watch, name: Any
):
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


async def test_a_client_that_leaves_during_admission_holds_no_slot_or_subscription():
    async def authenticate(_):
        return Access(account="a", key="k", scopes=["monitor:read"])

    async def claim(account, _lost):
        return account

    async def release(_slot):
        pass

    async def enter(_account, client):  # and meanwhile its connection ends
        await sockets.engine._handle_eio_disconnect(client.id, "transport close")

    bus = MemoryBus()
    bus.answer(AUTHENTICATE, authenticate)
    slots = SimpleNamespace(claim=claim, release=release)
    sockets = Sockets(bus, slots, Origins("http://127.0.0.1:8080"))
    sockets.topics.enter, sockets.topics.exit = enter, lambda *_: None
    engine = sockets.engine
    engine.eio.sockets["one"] = SimpleNamespace(queue=asyncio.Queue(), receive=None, closed=True)
    await engine._handle_eio_connect("one", {})
    await engine._handle_connect("one", "/", {"token": "t"})
    assert not sockets.clients
    assert not list(engine.manager.get_namespaces())
