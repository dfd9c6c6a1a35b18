"""Alert rules: default rules, the accounts' own rules, and their evaluation."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from pydantic import ValidationError

from common.contracts.alerts import (
    ChangeRequest,
    NewRule,
    Rule,
    RuleChange,
    RuleRemoved,
    RuleRequest,
    Rules,
    Severity,
)
from common.errors import InvalidRequest, NotFound
from common.faults import invalid
from common.postgres import Connection, Database
from common.quantities import percent
from common.unreadable import Unreadable
from metrics.arrays import Floats, Times
from metrics.baselines import Baseline
from metrics.shape.cells import MEDIAN_DEVIATION, median
from metrics.units import lower_is_better, title, unit

# Each is logged once per process.
UNREADABLE = Unreadable("rule")
# Max rules of an account's own; each is evaluated whenever something is recorded.
MAX_RULES = 100
# Newest values whose median is compared: few enough to notice a change soon, enough that two
# outliers are not a change.
RECENT_VALUES = 5
# Min earlier values to compare them with where the series has no shape yet.
MIN_BASELINE_VALUES = 30
MAX_BASELINE_VALUES = 1_000
# Robust z-scores (distance from the median in scaled median deviations): 3.5
# is Iglewicz and Hoaglin's limit for an outlier; an incident recovers below 2.
RAISE_SCORE = 3.5
RECOVER_SCORE = 2.0
# Memory that wavers around its limit is one incident: it recovers this far below the limit.
MEMORY_RECOVERY_PERCENT = 2.0
# Min deviation as a share of the median: counters and rounded values hardly vary.
MIN_DEVIATION = 0.01
# One replica at a time evaluates an account's rules, so that it sees alerts that others raised. In
# a series that grows fast the planner would sort the whole day rather than read the index
# backwards.
TAKE_TURNS = """
select pg_advisory_xact_lock(hashtext('alerts'), hashtext(%s)),
    set_config('enable_bitmapscan', 'off', true)
"""
MEMORY_OF = {"memory_usage": "memory_limit", "gpu_memory_usage": "gpu_memory_limit"}
# A model that reported so often within a day falls silent when it stops for both
# a quarter of an hour and twenty times its usual interval.
MIN_REGULAR_SAMPLES = 20
MIN_SILENCE_S = 900.0
MIN_SILENT_INTERVALS = 20


def _default(id: str, kind: str, metric: str | None, severity: Severity, **more: Any) -> Rule:
    return Rule(
        id=id, origin="default", kind=kind, model_id=None, metric=metric, severity=severity, **more
    )


DEFAULTS = [
    _default("latency", "change", "latency", "warning", percent=20),
    _default("throughput", "change", "throughput", "warning", percent=20),
    _default("cost", "change", "cost_per_inference", "warning", percent=20),
    _default("memory", "memory", "memory_usage", "warning", percent=90),
    _default("gpu-memory", "memory", "gpu_memory_usage", "warning", percent=90),
    _default("silence", "silence", None, "warning"),
]
# Types of the default rules' alerts; the others are `<metric>_<kind>`.
TYPES = {"cost": "cost_drift", "latency": "latency_regression",
         "throughput": "throughput_regression", "memory": "memory_near_limit",
         "gpu-memory": "gpu_memory_near_limit", "silence": "silence"}  # fmt: skip


@dataclass(slots=True)
class Values:
    """The values of a metric by which a rule is evaluated.

    Attributes:
        at, latest: the latest values and their times, newest first.
        least, greatest: the extremes of the newly recorded values, which may have passed already.
        limit_mib: the limit of a memory metric.
        baseline: what the metric's values usually are, once that is known.
    """

    at: Times
    latest: Floats
    least: float
    greatest: float
    limit_mib: float | None = None
    baseline: Baseline | None = None

    @property
    def newest(self) -> float:
        return float(self.latest[0])


@dataclass(slots=True)
class Verdict:
    """The conclusion of a rule from a metric's values.

    Attributes:
        cause: why an alert is due; None if it is not, or too little is known.
        lasts: whether the cause lasts.
        recovery: why an open incident recovers; "" if it does not.
        severity: in place of the rule's own.
        expected: the level that values are compared with while the incident is open.
        until: the time of the newest value, in microseconds since 2000.
    """

    cause: str | None = None
    lasts: bool = False
    recovery: str = ""
    severity: Severity | None = None
    expected: dict[str, float] = field(default_factory=dict)
    until: int = 0


def type_of(rule: Rule, metric: str | None) -> str:
    if rule.origin == "default":
        return TYPES[rule.id]
    return "silence" if rule.kind == "silence" else f"{metric}_{rule.kind}"


def judge(rule: Rule, metric: str, values: Values, expected: dict[str, float] | None) -> Verdict:
    """Evaluate a rule; `expected` is the level against which an open incident was raised."""
    if rule.kind == "threshold":
        return _threshold(rule, metric, values)
    if rule.kind == "memory":
        return _memory(rule, metric, values)
    return _change(rule, metric, values, expected)


def _threshold(rule: Rule, metric: str, values: Values) -> Verdict:
    for limit, extreme, direction, sign in (
        (rule.above, values.greatest, "above", 1),
        (rule.below, values.least, "below", -1),
    ):
        if limit is not None and (extreme - limit) * sign > 0:
            lasts = (values.newest - limit) * sign > 0
            cause = f"{title(metric)} is {say(extreme, metric)}, {direction} {say(limit, metric)}"
            return Verdict(cause, lasts, _back(metric, values.newest))
    return Verdict(recovery=_back(metric, values.newest))


def _memory(rule: Rule, metric: str, values: Values) -> Verdict:
    if not values.limit_mib or values.limit_mib <= 0 or rule.percent is None:
        return Verdict(recovery=_back(metric, values.newest))
    share = values.greatest / values.limit_mib
    lasts = values.newest / values.limit_mib * 100 > rule.percent - MEMORY_RECOVERY_PERCENT
    recovery = _back(metric, values.newest)
    if share * 100 <= rule.percent:
        return Verdict(lasts=lasts, recovery=recovery)
    cause = (
        f"{title(metric)} is at {percent(share)} of its limit"
        f" ({values.greatest:,.0f} of {values.limit_mib:,.0f} MiB)"
    )
    return Verdict(cause, lasts, recovery, "critical" if share > 0.97 else None)


def _change(rule: Rule, metric: str, values: Values, expected: dict[str, float] | None) -> Verdict:
    recent = values.latest[:RECENT_VALUES]
    sign = 1 if lower_is_better(metric) else -1
    if expected is None:
        expected = _expected(values)
        if expected is None:
            return Verdict()
        season, min_score = _season(values, sign), RAISE_SCORE
    else:
        season, min_score = _season(values, 0), RECOVER_SCORE
    usual, deviation = expected["usual"] + median(season), expected["deviation"]
    worse = median(recent - season - expected["usual"]) * sign
    now = usual + worse * sign
    share = worse / abs(usual) if usual else 0.0
    enough = (rule.percent or 0) / 100 * (1 if min_score == RAISE_SCORE else 0.5)
    if deviation <= 0 or worse / deviation <= min_score or share <= enough:
        return Verdict(recovery=f"{_back(metric, now)}, usually {say(usual, metric)}")
    way = "higher" if now > usual else "lower"
    cause = (
        f"{title(metric)} is {percent(share)} {way} than usual:"
        f" {say(now, metric)}, usually {say(usual, metric)}"
    )
    # Twice as slow, or half as fast.
    bad = share >= (1.0 if lower_is_better(metric) else 0.5)
    return Verdict(cause, True, "", "critical" if bad else None, expected)


def _expected(values: Values) -> dict[str, float] | None:
    """Return the usual level and deviation without the season; None if too little is known."""
    before, baseline = values.latest[RECENT_VALUES:], values.baseline
    if baseline is not None:
        if len(values.latest) < RECENT_VALUES:
            return None
        usual, deviation = baseline.level_at(int(values.at[0])), baseline.deviation
        before = before - baseline.season(values.at[RECENT_VALUES:])
    elif len(before) >= MIN_BASELINE_VALUES:
        usual, deviation = median(before), 0.0
    else:
        return None
    if len(before) >= MIN_BASELINE_VALUES:
        spread = median(np.abs(before - median(before))) / MEDIAN_DEVIATION
        deviation = max(deviation, spread)
    return {"usual": usual, "deviation": max(deviation, MIN_DEVIATION * abs(usual))}


def _season(values: Values, sign: int) -> Floats:
    """Return the seasonal part of each of the newest values; with a sign, the extreme around it."""
    at = values.at[:RECENT_VALUES]
    return np.zeros(len(at)) if values.baseline is None else values.baseline.season(at, sign)


def _back(metric: str, value: float) -> str:
    return f"{title(metric)} is back at {say(value, metric)}"


def say(value: float, metric: str) -> str:
    if unit(metric) == "USD":
        return f"${value:.3g}"
    return f"{value:,.4g} {unit(metric) or ''}".rstrip()


async def known(connection: Connection, account: str) -> list[Rule]:
    """Return the default rules with the account's changes, then its own rules, oldest first."""
    cursor = await connection.execute(
        "select id, rule, created_at from rules where account = %s order by created_at, id",
        [account],
    )
    rows = await cursor.fetchall()
    readable_rules = [rule for row in rows for rule in readable(*row)]
    changed = {rule.id: rule for rule in readable_rules if rule.origin == "default"}
    # A changed rule that this version cannot read may be switched off, so it is left out.
    stored = {row[0] for row in rows}
    defaults = [
        changed.get(rule.id, rule)
        for rule in DEFAULTS
        if rule.id in changed or rule.id not in stored
    ]
    return [*defaults, *(rule for rule in readable_rules if rule.origin == "own")]


def readable(id: str, rule: dict[str, Any], created_at: datetime) -> list[Rule]:
    """Parse the rule in a row; return it in a list, or [] if this version cannot read it."""
    parsed = UNREADABLE.read(id, partial(_stored, rule, created_at))
    return [] if parsed is None else [parsed]


def _stored(rule: dict[str, Any], created_at: datetime) -> Rule:
    """Parse a stored rule; a default rule has no date."""
    dated = {} if rule["origin"] == "default" else {"created_at": created_at}
    return Rule.model_validate({**rule, **dated})


class OwnRules:
    """The stored rules of accounts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def all(self, account: str) -> Rules:
        """List the default rules, then the account's own, oldest first."""
        async with self.database.connection() as connection:
            return Rules(rules=await known(connection, account))

    async def add(self, account: str, new: NewRule) -> Rule:
        """Add a rule.

        Raises:
            InvalidRequest: the condition always or never holds, or the account has too many rules.
        """
        _check(new)
        rule = Rule(id=f"rule_{secrets.token_hex(12)}", origin="own", **new.model_dump())
        async with self.database.connection() as connection:
            await connection.execute(
                "select pg_advisory_xact_lock(hashtext('rules'), hashtext(%s))", [account]
            )
            cursor = await connection.execute(
                "insert into rules (id, account, rule) select %s, %s, %s"
                " where (select count(*) from rules where account = %s"
                " and rule->>'origin' = 'own') < %s returning created_at",
                [
                    rule.id,
                    account,
                    rule.model_dump_json(exclude={"created_at"}),
                    account,
                    MAX_RULES,
                ],
            )
            row = await cursor.fetchone()
        if row is None:
            raise InvalidRequest(
                f"an account may have {MAX_RULES} rules; delete one first", limit=MAX_RULES
            )
        return rule.model_copy(update={"created_at": row[0]})

    async def change(self, account: str, request: ChangeRequest) -> Rule:
        """Change a rule of the account or a default rule; muting it ends its open alerts.

        Raises:
            NotFound: the account has no such rule.
            InvalidRequest: a field does not suit the rule's kind, or no condition remains.
        """
        try:
            change = RuleChange.model_validate(request.changes)
        except ValidationError as error:
            raise invalid(error, RuleChange) from None
        async with self.database.connection() as connection:
            await connection.execute(TAKE_TURNS, [account])
            rule = next((r for r in await known(connection, account) if r.id == request.id), None)
            if rule is None:
                raise NotFound("no such rule; GET /v1/api/alerts/rules lists the rules")
            changed = rule.model_copy(update=change.model_dump(exclude_unset=True, by_alias=False))
            _check(changed)
            await connection.execute(
                "insert into rules (id, account, rule) values (%s, %s, %s)"
                " on conflict (account, id) do update set rule = excluded.rule",
                [rule.id, account, changed.model_dump_json(exclude={"created_at"})],
            )
            await connection.execute(
                "delete from holding where account = %s and rule = %s", [account, rule.id]
            )
            if changed.muted:
                await _end(connection, account, rule.id, "the rule was muted")
        return changed

    async def remove(self, account: str, request: RuleRequest) -> RuleRemoved:
        """Delete a rule of the account's own, which ends its open alerts.

        Raises:
            NotFound: the account has no such rule of its own.
        """
        async with self.database.connection() as connection:
            await connection.execute(TAKE_TURNS, [account])
            cursor = await connection.execute(
                "delete from rules where account = %s and id = %s and rule->>'origin' = 'own'",
                [account, request.id],
            )
            if not cursor.rowcount:
                raise NotFound("no such rule of your own; a default rule can be muted, not deleted")
            await connection.execute(
                "delete from holding where account = %s and rule = %s", [account, request.id]
            )
            await _end(connection, account, request.id, "the rule was deleted")
        return RuleRemoved()


async def _end(connection: Connection, account: str, rule: str, why: str) -> None:
    """End the open alerts of a rule."""
    await connection.execute(
        "update alerts set recovered_at = clock_timestamp(), recovery = model || ': ' || %s"
        " where account = %s and rule = %s and recovered_at is null",
        [why, account, rule],
    )


NEEDS = {
    "threshold": {"above", "below"}, "change": {"percent"}, "memory": {"percent"},
    "silence": {"after"},
}  # fmt: skip


def _check(new: NewRule | Rule) -> None:
    sent = {
        name for name in ("above", "below", "percent", "after") if getattr(new, name) is not None
    }
    permitted = NEEDS[new.kind]
    adapts = isinstance(new, Rule) and new.id == "silence"  # to the model's own interval
    if not (sent or adapts) or sent - permitted:
        names = " or ".join(f"`{name}`" for name in sorted(permitted))
        raise _wrong("kind", f"a {new.kind} rule takes {names}, and no other condition")
    if new.metric is None and new.kind != "silence":
        raise _wrong("metric", f"a {new.kind} rule needs a metric")
    if new.for_minutes and new.kind == "silence":
        raise _wrong("forMinutes", "not for silence rules; send `after`, in seconds")
    if new.above is not None and new.below is not None and new.below >= new.above:
        raise _wrong("below", "must be less than `above`, or every value raises an alert")


def _wrong(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {message}", fields=[{"path": path, "message": message}])
