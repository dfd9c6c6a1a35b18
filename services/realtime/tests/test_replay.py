"""Replays of everything that a client missed, in order and once."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest


def numbers(watcher) -> list[int]:
    """Return the numbers of the records received; each record has its own series."""
    return [int(name[1:]) for update in watcher.of("metric_update") for name in update["metrics"]]


def what(received) -> list[str]:
    """Return the names of the metrics and the types of the alerts received."""
    return [
        data["type"] if event == "alert" else next(iter(data["metrics"]))
        for event, data in received
    ]


async def everything(watcher, last: int) -> list[int]:
    async with asyncio.timeout(60), watcher.changed:
        await watcher.changed.wait_for(lambda: last in numbers(watcher))
    return numbers(watcher)


async def test_missed_updates_are_sent_before_new_ones(others, watch):
    since = await others.record("m1", "m", tell=False, n0=0)
    for number in range(1, 6):
        await others.record("m1", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m1/key")
    assert await watcher.subscribe("m", since=since) == {"status": "success", "complete": True}
    await others.record("m1", "m", n6=0)
    assert await everything(watcher, 6) == [1, 2, 3, 4, 5, 6]


async def test_updates_during_a_replay_are_neither_lost_nor_repeated(others, watch):
    since = await others.record("m2", "m", tell=False, n0=0)

    async def record() -> None:
        for number in range(1, 300):
            await others.record("m2", "m", **{f"n{number}": 0})
            await asyncio.sleep(0.003)

    recording = asyncio.create_task(record())
    watchers = []
    for _ in range(6):
        await asyncio.sleep(0.1)
        watchers.append(await watch("m2/key"))
        await watchers[-1].subscribe("m", since=since)
    await recording
    for watcher in watchers:
        assert await everything(watcher, 299) == list(range(1, 300))


async def test_a_repeated_subscription_repeats_no_update(others, watch):
    since = await others.record("m3", "m", tell=False, n0=0)
    watcher = await watch("m3/key")
    await watcher.subscribe("m")
    await others.record("m3", "m", n1=0)
    await everything(watcher, 1)
    await others.record("m3", "m", tell=False, n2=0)  # lost on the way
    await others.record("m3", "m", n3=0)
    await everything(watcher, 3)
    await watcher.subscribe("m", since=since)
    await others.record("m3", "m", n4=0)
    assert sorted(await everything(watcher, 4)) == [1, 2, 3, 4]


async def test_a_replay_repeats_no_update_of_an_earlier_replay(others, watch):
    since = await others.record("m5b", "m", tell=False, n0=0)
    for number in (1, 2):
        await others.record("m5b", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m5b/key")
    await watcher.subscribe("m", since=since)
    await others.record("m5b", "m", tell=False, n3=0)  # lost on the way
    await watcher.subscribe("m", since=since)
    assert await everything(watcher, 3) == [1, 2, 3]
    # What came before the first replay was not sent yet.
    await watcher.subscribe("m", since="2020-01-01T00:00:00Z")
    assert await everything(watcher, 0) == [1, 2, 3, 0]


async def test_thousands_of_missed_updates_are_all_delivered(others, watch):
    since = await others.record("m4", "m", tell=False, n0=0)
    for number in range(1, 3500):
        await others.record("m4", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m4/key")
    assert (await watcher.subscribe("m", since=since))["complete"]
    assert numbers(watcher) == list(range(1, 3500))  # the answer comes last


async def test_late_samples_are_replayed_in_the_order_of_arrival(others, watch):
    since = await others.record("m8", "m", tell=False, n0=0)
    await others.record("m8", "m", tell=False, n1=0)
    await others.record("m8", "m", tell=False, ago=3600, n2=0)
    await others.record("m8", "m", tell=False, n3=0)
    watcher = await watch("m8/key")
    await watcher.subscribe("m", since=since)
    assert numbers(watcher) == [1, 2, 3]


async def test_a_client_with_a_cursor_misses_nothing_whenever_it_leaves(stack, others, watch):
    """Exactly the missed updates arrive, with late samples and alerts, at either replica."""
    urls = [f"http://{host}:{port}" for host, port in stack.addresses["realtime"]]
    await others.record("m9", "m", tell=False, n0=0)
    stays, leaves = await watch("m9/key", urls[1]), await watch("m9/key", urls[0])
    assert "cursor" not in await stays.subscribe("m")
    cursor = (await leaves.subscribe("m", cursor=True))["cursor"]
    received = []
    for turn in range(4):
        there = turn % 2 == 0
        for number in range(4):
            ago = 7200 if number == 1 else 0
            updates, alerts = len(numbers(leaves)), len(leaves.of("alert"))
            await others.record("m9", "m", ago=ago, **{f"n{turn * 4 + number + 1}": 0})
            if number == 2:
                await others.alert("m9", "m", f"alert{turn}")
            if there:  # in step, so that no update is replaced and no alert overtakes one
                await leaves.wait_for("metric_update", updates + 1)
                await leaves.wait_for("alert", alerts + (number == 2))
        if there:
            cursor = leaves.received[-1][1]["cursor"]
            received += leaves.received
            await leaves.close()
        else:
            leaves = await watch("m9/key", urls[turn // 2])
            answer = await leaves.subscribe("m", since=cursor)
            assert answer["complete"]
    received += leaves.received
    await everything(stays, 16)
    assert sorted(what(received)) == sorted(what(stays.received))
    assert not any("cursor" in data for _, data in stays.received)
    # The answer's cursor is as good as the last event's.
    again = await watch("m9/key")
    await others.record("m9", "m", n17=0)
    await again.subscribe("m", since=answer["cursor"])
    assert what(again.received) == ["n17"]


async def test_an_alert_from_before_the_connection_is_replayed(others, watch):
    since = await others.record("m10", "m", tell=False, n0=0)
    stays = await watch("m10/key")
    await others.alert("m10", "m", "first")
    await stays.wait_for("alert")
    watcher = await watch("m10/key")
    await watcher.subscribe("m", since=since)
    assert [alert["type"] for alert in watcher.of("alert")] == ["first"]


async def test_a_replayed_update_published_later_is_not_repeated(others, watch):
    since = await others.record("m12", "m", tell=False, n0=0)
    await others.record("m12", "m", tell=False, n1=0)
    await others.alert("m12", "m", "slow", tell=False)
    for options in ({}, {"cursor": True}):
        watcher = await watch("m12/key")
        await watcher.subscribe("m", since=since, **options)
        assert what(watcher.received) == ["n1", "slow"]
        await others.publish_update("m12", "m", 1)
        await others.publish_alert("m12")
        await others.publish_alert("m12")
        await others.record("m12", "m", n2=0)
        await everything(watcher, 2)
        assert what(watcher.received) == ["n1", "slow", "n2"]
        others.recorded["m12", "m"].pop()


async def test_one_clients_replay_does_not_move_another_clients_cursor(others, watch):
    since = await others.record("m13", "m", tell=False, n0=0)
    leaves = await watch("m13/key")
    await leaves.subscribe("m", cursor=True)
    await others.record("m13", "m", tell=False, n1=0)
    await others.record("m13", "m", tell=False, n2=0)
    watcher = await watch("m13/key")
    await watcher.subscribe("m", since=since, cursor=True)
    assert numbers(watcher) == [1, 2]
    await others.publish_update("m13", "m", 1)
    [update] = await leaves.wait_for("metric_update")
    await leaves.close()
    again = await watch("m13/key")
    await again.subscribe("m", since=update["cursor"])
    assert numbers(again) == [2]


async def test_an_alert_does_not_overtake_the_updates_its_cursor_covers(others, watch):
    """Updates after the first wait for the next batch, and so does an alert among them."""
    await others.record("m14", "m", tell=False, n0=0)
    watcher = await watch("m14/key")
    await watcher.subscribe("m", cursor=True)
    for number in range(1, 9):
        await others.record("m14", "m", **{f"n{number}": 0})
    await others.alert("m14", "m", "slow")
    await watcher.wait_for("alert")
    assert what(watcher.received) == [*(f"n{number}" for number in range(1, 9)), "slow"]
    again = await watch("m14/key")
    await again.subscribe("m", since=watcher.received[-1][1]["cursor"])
    assert again.received == []


async def test_a_busy_models_new_updates_wait_for_the_replay(others, watch):
    """No other client follows the model, so the replica subscribes while samples arrive."""

    async def record(model: str) -> None:
        for number in range(1, 200):
            await others.record("m15", model, **{f"n{number}": 0})
            await asyncio.sleep(0.002)

    for turn in range(10):
        since = await others.record("m15", f"m{turn}", tell=False, n0=0)
        watcher = await watch("m15/key")
        recording = asyncio.create_task(record(f"m{turn}"))
        await asyncio.sleep(0.01 * turn)
        assert (await watcher.subscribe(f"m{turn}", since=since, cursor=True))["complete"]
        await recording
        assert await everything(watcher, 199) == list(range(1, 200))
        assert all("cursor" in update for update in watcher.of("metric_update"))
        await watcher.close()


async def test_a_subscription_is_refused_while_its_replay_is_unavailable_and_succeeds_later(
    others, watch
):
    await others.record("m16", "m", tell=False, n0=0)
    watcher = await watch("m16/key")
    cursor = (await watcher.subscribe("m", cursor=True))["cursor"]
    await others.record("m16", "m", tell=False, n1=0)  # lost on the way
    others.away = True
    try:
        assert (await watcher.subscribe("m", once=True, since=cursor))["code"] == 5003
        await others.record("m16", "m", n2=0)
        await others.alert("m16", "m", "slow")
        await watcher.wait_for("alert")
    finally:
        others.away = False
    assert what(watcher.received) == ["slow"], "no update beyond the gap"
    await watcher.subscribe("m", since=cursor)
    assert what(watcher.received) == ["slow", "n1", "n2"]


async def test_an_alert_published_out_of_order_is_replayed(others, watch):
    await others.record("m17", "m", tell=False, n0=0)
    watcher = await watch("m17/key")
    await watcher.subscribe("m", cursor=True)
    await others.alert("m17", "m", "silence", tell=False)
    await others.alert("m17", "m", "latency")
    [latency] = await watcher.wait_for("alert")
    await watcher.close()
    again = await watch("m17/key")
    await again.subscribe("m", since=latency["cursor"])
    assert what(again.received) == ["silence"]


async def test_samples_of_newly_selected_metrics_are_replayed(others, watch):
    since = await others.record("m18", "m", tell=False, latency=0, throughput=0)
    watcher = await watch("m18/key")
    await watcher.subscribe("m", metrics=["latency"])
    await others.record("m18", "m", latency=1, throughput=1)
    await watcher.wait_for("metric_update")
    await watcher.subscribe("m", metrics=["latency", "throughput"], since=since)
    assert [update["metrics"] for update in watcher.of("metric_update")] == [
        {"latency": 1}, {"throughput": 1},
    ]  # fmt: skip


async def test_requests_about_one_model_run_in_order(others, watch):
    since = await others.record("m19", "m", tell=False, n0=0)
    for number in range(1, 500):
        await others.record("m19", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m19/key")
    request = {"modelId": "m", "since": since}
    answers = await asyncio.gather(
        *(
            watcher.call(event, request if event == "subscribe_metrics" else {"modelId": "m"})
            for event in ("subscribe_metrics", "unsubscribe_metrics") * 3
        )
    )
    assert [answer["status"] for answer in answers] == ["success"] * 6
    await others.record("m19", "m", after=0)
    await others.alert("m19", "m", "last")
    await watcher.wait_for("alert")
    assert "after" not in what(watcher.received)


@pytest.mark.parametrize("wrong", ["c1", "c1.zz.0", "c1.0.0." + "f" * 16 + "-0", "c2.0.0"])
async def test_an_invalid_cursor_is_refused(others, watch, wrong: str):
    await others.record("m11", "m", tell=False, n0=0)
    watcher = await watch("m11/key")
    assert (await watcher.subscribe("m", since=wrong))["code"] == 1003


async def test_a_replay_has_only_the_selected_metrics(others, watch):
    since = await others.record("m5", "m", tell=False, n0=0)
    await others.record("m5", "m", tell=False, n1=0, other=1)
    await others.record("m5", "m", tell=False, other=1)
    watcher = await watch("m5/key")
    await watcher.subscribe("m", metrics=["n1", "n2"], since=since)
    await others.record("m5", "m", n2=0)
    assert await everything(watcher, 2) == [1, 2]


async def test_missed_alerts_are_replayed_once(others, watch):
    since = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    await others.record("m6", "m", tell=False, n0=0)
    await others.alert("m6", "m", "first", tell=False)
    await others.alert("m6", "elsewhere", "other", tell=False)
    watcher = await watch("m6/key")
    await others.alert("m6", "m", "second")
    await watcher.wait_for("alert")
    await watcher.subscribe("m", since=since)
    await others.alert("m6", "m", "third")
    alerts = await watcher.wait_for("alert", 3)
    assert [alert["type"] for alert in alerts] == ["second", "first", "third"]


async def test_a_recovery_is_an_alert_of_its_own(others, watch):
    since = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    await others.record("m7", "m", tell=False, n0=0)
    await others.alert("m7", "m", "slow", tell=False)
    account, alert = others.alerts[-1]
    over = {"recovered_at": datetime.now(UTC), "recovery": "fine again"}
    others.alerts[-1] = (account, alert.model_copy(update=over))
    watcher = await watch("m7/key")
    await watcher.subscribe("m", since=since)
    raised, recovered = await watcher.wait_for("alert", 2)
    assert (raised["type"], recovered["type"]) == ("slow", "slow_recovered")
    assert (recovered["message"], recovered["severity"]) == ("fine again", "info")


async def test_a_client_resumes_a_partial_replay(others, watch):
    since = await others.record("m30", "m", tell=False, n0=0)
    for number in range(1, 251):
        await others.record("m30", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m30/key", transports=["websocket"])
    others.recalls = 1
    refusal = await watcher.subscribe("m", once=True, since=since, cursor=True)
    others.recalls = None
    assert refusal["code"] == 5003
    [*_, last] = watcher.of("metric_update")
    await watcher.subscribe("m", since=last["cursor"])
    assert await everything(watcher, 250) == list(range(1, 251))
