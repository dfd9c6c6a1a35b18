"""What is known of a model when its rules are judged, and what they say to it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from common.contracts.monitoring import EPOCH, MICROSECOND, Rule
from common.postgres import Connection
from metrics import rules
from metrics.batch import Extremes, to_time
from metrics.rules import Values, Verdict, judge

# What is older than a day is history that is being brought in, and nobody's emergency. What
# is further ahead of its time than what was just recorded says nothing about now.
LATEST = """
select model, metric, array_agg(value order by at desc), max(at)
from series join unnest(%s::text[], %s::timestamptz[]) as asked(model, bound) using (model)
join unnest(%s::text[], %s::integer[]) as wanted(metric, most) using (metric)
cross join lateral (
    select at, value from samples
    where series = id and at > now() - interval '24 hours' and at <= bound
    order by at desc limit most
) as newest
where account = %s group by model, metric
"""
OPEN = """
select model, rule, metric, id, expected from alerts
where account = %s and model = any(%s) and recovered_at is null
"""
# Replicas look within a minute of a commit, whatever is the matter.
OVER = """
select model, rule, metric, max(until) from alerts
where account = %s and model = any(%s)
and until > now() - interval '24 hours' and recovered_at > now() - interval '1 hour'
group by model, rule, metric
"""
# A peak of an incident that is over may hide one that came after it.
AFTER = """
select min(value), max(value) from samples where at > %s and at <= %s and series = (
    select id from series where account = %s and model = %s and metric = %s
)
"""
# What was recorded just before, of which a replica that died will not think any more.
LATELY = """
select account, model, metric, min(value), max(value), max(at)
from series join lateral (
    select at, value from samples
    where series = id and at > now() - interval '1 minute' and at < now() + interval '1 minute'
) as s on true
group by account, model, metric
"""

# Two recorders' clocks differ by less.
CLOCKS = timedelta(minutes=1)

# By model and metric, what was just recorded.
Recorded = Mapping[str, Mapping[str, Extremes]]
# Of a rule of a model: its id, and the metric that it is about.
Which = tuple[str, str | None]


@dataclass(slots=True)
class Situation:
    """Of one model.

    Attributes:
        recorded: what was just recorded, by metric.
        latest: by metric the newest values, newest first, and the newest one's time.
        open: an open incident's id, and what was expected when it began.
        over: how long the last incident lasted, by the times of samples.
    """

    recorded: Mapping[str, Extremes]
    latest: dict[str, tuple[list[float], int]] = field(default_factory=dict)
    open: dict[Which, tuple[str, dict[str, float] | None]] = field(default_factory=dict)
    over: dict[Which, int] = field(default_factory=dict)

    def verdicts(self, rule: Rule) -> Iterator[tuple[str | None, Verdict, str | None]]:
        """What a rule says to what was recorded, and the incident that it has open."""
        metric = rule.metric
        incident, expected = self.open.get((rule.id, metric), (None, None))
        if rule.kind == "silence":
            came = [e.newest for name, e in self.recorded.items() if metric in (None, name)]
            # What was under way when it was raised, or came late, does not end it.
            if incident and came and max(came) > (expected or {}).get("last", 0):
                yield metric, Verdict(over="something is recorded again"), incident
        elif metric is not None and metric in self.recorded and metric in self.latest:
            newest, at = self.latest[metric]
            limits, _ = self.latest.get(rules.MEMORY_OF.get(metric, ""), ([None], 0))
            peaks = self.recorded[metric].after(self.over.get((rule.id, metric), 0), newest[0])
            verdict = judge(rule, metric, Values(newest, *peaks, limits[0]), expected)
            verdict.until = at
            yield metric, verdict, incident


async def read(
    connection: Connection, account: str, recorded: Recorded, known: Collection[Rule]
) -> dict[str, Situation]:
    """By model, all that the rules need."""
    models = list(recorded)
    situations = {model: Situation(found) for model, found in recorded.items()}
    bounds = [
        to_time(max(extremes.newest for extremes in found.values())) + CLOCKS
        for found in recorded.values()
    ]
    # Only what is compared with its past needs more than the newest value.
    compared = {rule.metric for rule in known if rule.kind == "change"}
    watched = {rule.metric for rule in known if rule.metric} | {*rules.MEMORY_OF.values()}
    most = [rules.RECENT + rules.MOST_BEFORE if m in compared else 1 for m in watched]
    cursor = await connection.execute(LATEST, [models, bounds, list(watched), most, account])
    for model, metric, values, at in await cursor.fetchall():
        situations[model].latest[metric] = values, microseconds(at)
    cursor = await connection.execute(OPEN, [account, models])
    for model, rule, metric, id, expected in await cursor.fetchall():
        situations[model].open[rule, metric] = id, expected
    cursor = await connection.execute(OVER, [account, models])
    for model, rule, metric, until in await cursor.fetchall():
        await _look_behind(connection, account, model, situations[model], metric, until)
        situations[model].over[rule, metric] = microseconds(until)
    return situations


async def _look_behind(
    connection: Connection, account: str, model: str, situation: Situation, metric: str,
    until: datetime,
) -> None:  # fmt: skip
    """Where the greatest or least of what was recorded belongs to an incident that is over."""
    peaks = situation.recorded.get(metric)
    over = microseconds(until)
    if peaks is None or not min(peaks.least_at, peaks.greatest_at) <= over < peaks.newest:
        return
    which = [until, to_time(peaks.newest), account, model, metric]
    cursor = await connection.execute(AFTER, which)
    [(least, greatest)] = await cursor.fetchall()
    if least is not None:
        found = Extremes(least, peaks.newest, greatest, peaks.newest, peaks.newest)
        situation.recorded = {**situation.recorded, metric: found}


async def lately(connection: Connection) -> dict[str, dict[str, dict[str, Extremes]]]:
    """What was recorded in the last minute, by account."""
    found: dict[str, dict[str, dict[str, Extremes]]] = {}
    cursor = await connection.execute(LATELY)
    for account, model, metric, least, greatest, newest in await cursor.fetchall():
        at = microseconds(newest)
        extremes = Extremes(least, at, greatest, at, at)
        found.setdefault(account, {}).setdefault(model, {})[metric] = extremes
    return found


def microseconds(time: datetime) -> int:
    """Since 2000."""
    return (time - EPOCH) // MICROSECOND
