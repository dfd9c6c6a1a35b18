"""When to be told: the rules that need no set-up, how each judges, and the callers' own."""

import secrets
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.contracts.monitoring import NewRule, Nothing, Rule, RuleRequest, Rules, Severity
from common.errors import InvalidRequest, NotFound
from common.postgres import Connection, Database
from metrics.units import lower_is_better, title, unit

# Rules of an account's own; each is looked at whenever something is recorded.
MOST_RULES = 100
# The newest values, whose median is compared: so few that a change is seen
# soon, so many that two outliers are not one.
RECENT = 5
# What they are compared with: at least 30 values, at most so many.
FEWEST_BEFORE = 30
MOST_BEFORE = 1_000
# Robust z-scores (distance from the median in scaled median deviations): 3.5
# is Iglewicz and Hoaglin's limit for an outlier; below 2 it is over.
RAISED_AT = 3.5
OVER_AT = 2.0
# Memory that wavers about its limit is one incident: it is over so many points below.
MEMORY_OVER = 2.0
# A deviation is taken to be at least this part of the median: counters and
# rounded values hardly vary at all.
LEAST_DEVIATION = 0.01
# One replica at a time for each account: what one raises the next one sees. Of
# a series that grows fast the planner would sort the whole day: it is told to
# go backwards along the index.
TAKE_TURNS = """
select pg_advisory_xact_lock(hashtext('alerts'), hashtext(%s)),
    set_config('enable_bitmapscan', 'off', true)
"""
MEMORY_OF = {"memory_usage": "memory_limit", "gpu_memory_usage": "gpu_memory_limit"}
# A model that reported so often within a day is missed when it stops: after
# a quarter of an hour (in seconds), or twenty times its usual interval.
REGULAR = 20
QUIET = 900.0
QUIET_INTERVALS = 20


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
# The types of alerts that have a name of their own; the others are `<metric>_<kind>`.
TYPES = {"cost": "cost_drift", "latency": "latency_regression",
         "throughput": "throughput_regression", "memory": "memory_near_limit",
         "gpu-memory": "gpu_memory_near_limit", "silence": "silence"}  # fmt: skip


@dataclass(slots=True)
class Values:
    """One metric as a rule sees it.

    `newest` and before: the latest values, newest first. `least` and
    `greatest` are those of what was just recorded, which may be over already.
    """

    latest: Sequence[float]
    least: float
    greatest: float
    limit: float | None = None  # of a memory metric, in MiB

    @property
    def newest(self) -> float:
        return self.latest[0]


@dataclass(slots=True)
class Verdict:
    """`worst`: why there was cause; `now`: whether there still is. None, None: cannot be told."""

    cause: str | None = None
    still: bool = False
    over: str = ""
    severity: Severity | None = None
    expected: dict[str, float] = field(default_factory=dict)
    until: int = 0  # the time of the newest value, in microseconds since 2000


def type_of(rule: Rule, metric: str | None) -> str:
    if rule.origin == "default":
        return TYPES[rule.id]
    return "silence" if rule.kind == "silence" else f"{metric}_{rule.kind}"


def judge(rule: Rule, metric: str, values: Values, expected: dict[str, float] | None) -> Verdict:
    """Whether there is cause for an alert; `expected` is what an open one was raised against."""
    if rule.kind == "threshold":
        return _threshold(rule, metric, values)
    if rule.kind == "memory":
        return _memory(rule, metric, values)
    return _change(rule, metric, values, expected)


def _threshold(rule: Rule, metric: str, values: Values) -> Verdict:
    for limit, extreme, word, sign in (
        (rule.above, values.greatest, "above", 1),
        (rule.below, values.least, "below", -1),
    ):
        if limit is not None and (extreme - limit) * sign > 0:
            still = (values.newest - limit) * sign > 0
            cause = f"{title(metric)} is {say(extreme, metric)}, {word} {say(limit, metric)}"
            return Verdict(cause, still, _back(metric, values.newest))
    return Verdict(over=_back(metric, values.newest))


def _memory(rule: Rule, metric: str, values: Values) -> Verdict:
    if not values.limit or values.limit <= 0 or rule.percent is None:
        return Verdict(over=_back(metric, values.newest))
    share = values.greatest / values.limit
    still = values.newest / values.limit * 100 > rule.percent - MEMORY_OVER
    over = _back(metric, values.newest)
    if share * 100 <= rule.percent:
        return Verdict(still=still, over=over)
    cause = (
        f"{title(metric)} is at {share:.0%} of its limit"
        f" ({values.greatest:,.0f} of {values.limit:,.0f} MiB)"
    )
    return Verdict(cause, still, over, "critical" if share > 0.97 else None)


def _change(rule: Rule, metric: str, values: Values, expected: dict[str, float] | None) -> Verdict:
    recent, before = values.latest[:RECENT], values.latest[RECENT:]
    now = statistics.median(recent)
    if expected is None:
        if len(before) < FEWEST_BEFORE:
            return Verdict()
        usual = statistics.median(before)
        spread = 1.4826 * statistics.median(abs(value - usual) for value in before)
        expected = {"usual": usual, "deviation": max(spread, LEAST_DEVIATION * abs(usual))}
        needed = RAISED_AT
    else:
        needed = OVER_AT
    usual, deviation = expected["usual"], expected["deviation"]
    worse = (now - usual) * (1 if lower_is_better(metric) else -1)
    share = worse / abs(usual) if usual else 0.0
    enough = (rule.percent or 0) / 100 * (1 if needed == RAISED_AT else 0.5)
    if deviation <= 0 or worse / deviation <= needed or share <= enough:
        return Verdict(over=f"{_back(metric, now)}, usually {say(usual, metric)}")
    way = "higher" if now > usual else "lower"
    cause = (
        f"{title(metric)} is {share:.0%} {way} than usual:"
        f" {say(now, metric)}, usually {say(usual, metric)}"
    )
    # Twice as slow, or half as fast.
    bad = share >= (1.0 if lower_is_better(metric) else 0.5)
    return Verdict(cause, True, "", "critical" if bad else None, expected)


def _back(metric: str, value: float) -> str:
    return f"{title(metric)} is back at {say(value, metric)}"


def say(value: float, metric: str) -> str:
    if unit(metric) == "USD":
        return f"${value:.3g}"
    return f"{value:,.4g} {unit(metric) or ''}".rstrip()


async def own(connection: Connection, account: str) -> list[Rule]:
    cursor = await connection.execute(
        "select rule, created_at from rules where account = %s order by created_at, id", [account]
    )
    rows = await cursor.fetchall()
    return [Rule.model_validate({**rule, "created_at": at}) for rule, at in rows]


class OwnRules:
    """The callers' rules, as they are stored."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def all(self, account: str) -> Rules:
        """The defaults, then the account's own, oldest first."""
        async with self.database.connection() as connection:
            return Rules(rules=[*DEFAULTS, *await own(connection, account)])

    async def add(self, account: str, new: NewRule) -> Rule:
        """Raises InvalidRequest for a rule that could never, or always, be met."""
        _check(new)
        rule = Rule(id=f"rule_{secrets.token_hex(12)}", origin="own", **new.model_dump())
        async with self.database.connection() as connection:
            await connection.execute(
                "select pg_advisory_xact_lock(hashtext('rules'), hashtext(%s))", [account]
            )
            cursor = await connection.execute(
                "insert into rules (id, account, rule) select %s, %s, %s"
                " where (select count(*) from rules where account = %s) < %s returning created_at",
                [
                    rule.id,
                    account,
                    rule.model_dump_json(exclude={"created_at"}),
                    account,
                    MOST_RULES,
                ],
            )
            row = await cursor.fetchone()
        if row is None:
            raise InvalidRequest(
                f"an account may have {MOST_RULES} rules; delete one first", limit=MOST_RULES
            )
        return rule.model_copy(update={"created_at": row[0]})

    async def remove(self, account: str, request: RuleRequest) -> Nothing:
        """What the rule has raised is over with it. Raises NotFound, also for another's rule."""
        async with self.database.connection() as connection:
            await connection.execute(TAKE_TURNS, [account])
            cursor = await connection.execute(
                "delete from rules where account = %s and id = %s", [account, request.id]
            )
            if not cursor.rowcount:
                raise NotFound("there is no such rule; the default ones stay")
            await connection.execute(
                "update alerts set recovered_at = clock_timestamp(),"
                " recovery = 'the rule was deleted'"
                " where account = %s and rule = %s and recovered_at is null",
                [account, request.id],
            )
        return Nothing()


NEEDS = {"threshold": {"above", "below"}, "change": {"percent"}, "silence": {"after"}}


def _check(new: NewRule) -> None:
    given = {
        name for name in ("above", "below", "percent", "after") if getattr(new, name) is not None
    }
    needed = NEEDS[new.kind]
    if not given or given - needed:
        names = " or ".join(sorted(needed))
        raise _wrong("kind", f"a {new.kind} rule takes {names} and nothing else of its kind")
    if new.metric is None and new.kind != "silence":
        raise _wrong("metric", f"a {new.kind} rule needs a metric")
    if new.above is not None and new.below is not None and new.below >= new.above:
        raise _wrong("below", "below must be less than above, or every value is an alert")


def _wrong(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {message}", fields=[{"path": path, "message": message}])
