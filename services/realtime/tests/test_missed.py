"""What a client missed comes when it asks for it: in order, without a gap, nothing twice."""

import asyncio
from datetime import UTC, datetime, timedelta


def numbers(watcher) -> list[int]:
    """The records' numbers; each has a series of its own, so none replaces another."""
    return [int(name[1:]) for update in watcher.of("metric_update") for name in update["metrics"]]


async def everything(watcher, last: int) -> list[int]:
    async with asyncio.timeout(60), watcher.changed:
        await watcher.changed.wait_for(lambda: last in numbers(watcher))
    return numbers(watcher)


async def test_what_was_missed_comes_first_then_what_happens(others, watch):
    since = await others.record("m1", "m", tell=False, n0=0)
    for number in range(1, 6):
        await others.record("m1", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m1/key")
    assert await watcher.subscribe("m", since=since) == {"status": "success", "complete": True}
    await others.record("m1", "m", n6=0)
    assert await everything(watcher, 6) == [1, 2, 3, 4, 5, 6]


async def test_what_happens_while_it_is_told_is_neither_lost_nor_doubled(others, watch):
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


async def test_asking_again_on_a_live_subscription_doubles_nothing(others, watch):
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


async def test_thousands_of_missed_moments_all_come(others, watch):
    since = await others.record("m4", "m", tell=False, n0=0)
    for number in range(1, 3500):
        await others.record("m4", "m", tell=False, **{f"n{number}": 0})
    watcher = await watch("m4/key")
    assert (await watcher.subscribe("m", since=since))["complete"]
    assert await everything(watcher, 3499) == list(range(1, 3500))


async def test_missed_metrics_are_filtered_too(others, watch):
    since = await others.record("m5", "m", tell=False, n0=0)
    await others.record("m5", "m", tell=False, n1=0, other=1)
    await others.record("m5", "m", tell=False, other=1)
    watcher = await watch("m5/key")
    await watcher.subscribe("m", metrics=["n1", "n2"], since=since)
    await others.record("m5", "m", n2=0)
    assert await everything(watcher, 2) == [1, 2]


async def test_missed_alerts_come_from_their_table_once(others, watch):
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


async def test_a_recovery_is_news_of_its_own(others, watch):
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
