"""Alert rules: adding, changing, muting and removing them, and conditions that must last."""

from typing import Any

import pytest

from common.contracts.alerts import ChangeRequest, Rule, RuleRequest
from common.errors import InvalidRequest, NotFound
from common.postgres import Database
from common.testing import MemoryBus
from metrics.handlers import Handlers

from .conftest import Caller
from .test_alerts import add, alerts, record, sent, usual


async def change(caller: Caller, id: str, **changes: Any) -> Rule:
    request = ChangeRequest(id=id, changes=changes)
    changed: Rule = await caller.call(caller.handlers.change_rule, request)
    return changed


async def listed(caller: Caller) -> list[Rule]:
    rules: list[Rule] = (await caller.call(caller.handlers.list_rules, None)).rules
    return rules


async def test_a_changed_rule_keeps_the_fields_that_were_left_out(caller: Caller) -> None:
    rule = await add(caller, kind="threshold", metric="latency", above=100.0, severity="critical")
    changed = await change(caller, rule.id, above=200.0, forMinutes=0, severity="info")
    assert changed == rule.model_copy(update={"above": 200.0, "severity": "info"})
    assert (await listed(caller))[-1] == changed
    await caller.record(record(0, latency=150.0))
    assert await alerts(caller) == []
    await caller.record(record(0, latency=250.0))
    [alert] = await alerts(caller)
    assert (alert.severity, alert.rule_id) == ("info", rule.id)


async def test_a_default_rule_is_changed_for_one_account_only(
    caller: Caller, handlers: Handlers
) -> None:
    other = Caller(handlers)
    changed = await change(caller, "latency", percent=300)
    assert (changed.origin, changed.percent, changed.created_at) == ("default", 300, None)
    assert len(await listed(caller)) == len(await listed(other)) == 6
    for who in (caller, other):
        await usual(who, "latency", 40.0)
        await who.record(*(record(10 - n, latency=60.0) for n in range(6)))
    assert await alerts(caller) == []
    [alert] = await alerts(other)
    assert alert.rule_id == "latency"


async def test_a_muted_rule_raises_nothing_and_its_open_alerts_end(
    caller: Caller, bus: MemoryBus
) -> None:
    rule = await add(caller, kind="threshold", metric="latency", above=100.0)
    await caller.record(record(3, latency=150.0))
    assert len(await alerts(caller, open_only=True)) == 1
    assert (await change(caller, rule.id, muted=True)).muted
    [alert] = await alerts(caller)
    assert alert.recovery == "m: the rule was muted"
    await caller.record(record(2, latency=150.0))
    assert len(await alerts(caller)) == 1
    await change(caller, rule.id, muted=False)
    await caller.record(record(0, latency=150.0))
    assert len(await alerts(caller)) == 2
    assert [kind for kind, _ in sent(bus, caller.account)][:1] == ["latency_threshold"]


@pytest.mark.parametrize("muted", [True, False])
async def test_the_default_silence_rule_can_be_muted(caller: Caller, muted: bool) -> None:
    await change(caller, "silence", muted=muted)
    await caller.record(*(record(7_200 + 10 * n, latency=1.0) for n in range(60)))
    await caller.handlers.watch.look_for_silence()
    assert [alert.rule_id for alert in await alerts(caller)] == ([] if muted else ["silence"])


async def test_an_alert_is_raised_once_its_condition_has_held_for_the_rules_minutes(
    caller: Caller,
) -> None:
    rule = await add(caller, kind="threshold", metric="latency", above=100.0)
    assert (await change(caller, rule.id, forMinutes=5)).for_minutes == 5
    for ago in (1_200, 1_000):
        await caller.record(record(ago, latency=150.0))
        assert await alerts(caller) == [], "it has not held for five minutes"
    await caller.record(record(950, latency=50.0))
    assert await alerts(caller) == []
    for ago in (900, 650):
        await caller.record(record(ago, latency=150.0))
        assert await alerts(caller) == [], "it began anew"
    await caller.record(record(590, latency=150.0))
    assert len(await alerts(caller, open_only=True)) == 1


@pytest.mark.parametrize(
    ("id", "changes", "path"),
    [
        ("latency", {"above": 1.0}, "kind"),
        ("latency", {"percent": None}, "kind"),
        ("latency", {"percent": -1.0}, "percent"),
        ("latency", {"metric": "throughput"}, "metric"),
        ("silence", {"forMinutes": 5}, "forMinutes"),
    ],
)
async def test_a_contradictory_or_unsuitable_change_is_refused(
    caller: Caller, id: str, changes: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await change(caller, id, **changes)
    assert [fault["path"] for fault in refused.value.details["fields"]] == [path]


async def test_another_accounts_rule_cannot_be_changed(caller: Caller, handlers: Handlers) -> None:
    rule = await add(caller, kind="threshold", metric="latency", above=100.0)
    with pytest.raises(NotFound):
        await change(Caller(handlers), rule.id, muted=True)


async def test_an_unreadable_change_of_a_default_rule_disables_the_rule(
    caller: Caller, database: Database
) -> None:
    await change(caller, "latency", percent=300)
    async with database.connection() as connection:
        await connection.execute(
            'update rules set rule = rule || \'{"percent": "more"}\' where account = %s',
            [caller.account],
        )
    # The account may have switched it off, so the unchanged default does not take its place.
    assert [rule.id for rule in await listed(caller)].count("latency") == 0
    await usual(caller, "latency", 40.0)
    await caller.record(*(record(10 - n, latency=60.0) for n in range(6)))
    assert await alerts(caller) == []


async def test_rules_are_added_listed_and_removed(caller: Caller, handlers: Handlers) -> None:
    rule = await add(caller, kind="threshold", metric="latency", above=100.0)
    await caller.record(record(0, latency=150.0))
    assert len(await alerts(caller, open_only=True)) == 1
    listed = (await caller.call(handlers.list_rules, None)).rules
    assert [rule_listed.origin for rule_listed in listed] == ["default"] * 6 + ["own"]
    assert listed[-1] == rule
    with pytest.raises(NotFound):
        await Caller(handlers).call(handlers.remove_rule, RuleRequest(id=rule.id))
    await caller.call(handlers.remove_rule, RuleRequest(id=rule.id))
    assert await alerts(caller, open_only=True) == []
    with pytest.raises(NotFound):
        await caller.call(handlers.remove_rule, RuleRequest(id=rule.id))


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "threshold", "metric": "latency"},
        {"kind": "threshold", "above": 1.0},
        {"kind": "threshold", "metric": "latency", "above": 1.0, "after": 60},
        {"kind": "threshold", "metric": "latency", "above": 1.0, "below": 2.0},
        {"kind": "change", "metric": "latency", "above": 1.0},
        {"kind": "silence", "metric": "latency"},
    ],
)
async def test_a_contradictory_rule_is_refused(caller: Caller, rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await add(caller, **rule)
    assert refused.value.details["fields"]


async def test_an_account_may_have_at_most_a_hundred_rules(caller: Caller) -> None:
    for _ in range(100):
        await add(caller, kind="silence", after=60)
    with pytest.raises(InvalidRequest, match="100 rules"):
        await add(caller, kind="silence", after=60)
