"""The facts by which a model's rules are evaluated."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from common.contracts.alerts import Rule
from common.contracts.timestamps import MAX_CLOCK_SKEW, from_us, to_us
from common.postgres import Connection
from metrics import rules
from metrics.arrays import Floats, Times
from metrics.baselines import Baseline, Baselines
from metrics.batch import Extremes
from metrics.rules import Values, Verdict, judge
from metrics.window import SAMPLES

# Samples older than a day are a backfill, not an emergency. Samples further ahead of their time
# than the newly recorded ones say nothing about now.
LATEST = """
select model, metric,
    string_agg(timestamptz_send(at) || float8send(value), ''::bytea order by at desc)
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
# Replicas evaluate within a minute of a commit, even under load.
RECOVERED = """
select model, rule, metric, max(until) from alerts
where account = %s and model = any(%s)
and until > now() - interval '24 hours' and recovered_at > now() - interval '1 hour'
group by model, rule, metric
"""
# A peak of a recovered incident may hide one that came after it.
AFTER = """
select min(value), max(value) from samples where at > %s and at <= %s and series = (
    select id from series where account = %s and model = %s and metric = %s
)
"""
# Extremes of the last minute, which a dead replica may have left unevaluated.
RECENT_EXTREMES = """
select account, model, metric, min(value), max(value), max(at)
from series join lateral (
    select at, value from samples
    where series = id and at > now() - interval '1 minute' and at < now() + interval '1 minute'
) as s on true
group by account, model, metric
"""

# Newly recorded extremes, by model and metric.
Recorded = Mapping[str, Mapping[str, Extremes]]
# A rule's id, and the metric that it is judged for.
RuleMetric = tuple[str, str | None]


@dataclass(slots=True)
class Situation:
    """The facts by which a model's rules are evaluated.

    Attributes:
        recorded: newly recorded extremes, by metric.
        baselines: by metric, where it is known.
        latest: by metric the times of the newest values and these, newest first.
        open: the id of each open incident, and the expected values when it began.
        recovered: when the last incident recovered, by the times of samples.
    """

    recorded: Mapping[str, Extremes]
    baselines: Mapping[str, Baseline]
    latest: dict[str, tuple[Times, Floats]] = field(default_factory=dict)
    open: dict[RuleMetric, tuple[str, dict[str, float] | None]] = field(default_factory=dict)
    recovered: dict[RuleMetric, int] = field(default_factory=dict)

    def verdicts(self, rule: Rule) -> Iterator[tuple[str | None, Verdict, str | None]]:
        """Evaluate a rule; yield the metric, the verdict, and the id of an open incident."""
        metric = rule.metric
        incident, expected = self.open.get((rule.id, metric), (None, None))
        if rule.kind == "silence":
            came = [e.newest for name, e in self.recorded.items() if metric in (None, name)]
            # Samples that were under way when it was raised, or came late, do not end it.
            if incident and came and max(came) > (expected or {}).get("last", 0):
                yield metric, Verdict(recovery="samples are recorded again"), incident
        elif metric is not None and metric in self.recorded and metric in self.latest:
            at, newest = self.latest[metric]
            limit = self.latest.get(rules.MEMORY_OF.get(metric, ""))
            peaks = self.recorded[metric].after(
                self.recovered.get((rule.id, metric), 0), float(newest[0])
            )
            values = Values(
                at, newest, *peaks, limit and float(limit[1][0]), self.baselines.get(metric)
            )
            verdict = judge(rule, metric, values, expected)
            verdict.until = int(at[0])
            yield metric, verdict, incident


async def read(
    connection: Connection, account: str, recorded: Recorded, known: Collection[Rule],
    baselines: Baselines,
) -> dict[str, Situation]:  # fmt: skip
    """Read the facts that the rules need, by model."""
    models = list(recorded)
    situations = {
        model: Situation(found, baselines.get(account, model)) for model, found in recorded.items()
    }
    bounds = [
        from_us(max(extremes.newest for extremes in found.values())) + MAX_CLOCK_SKEW
        for found in recorded.values()
    ]
    # Only `change` rules need more than the newest value.
    compared = {rule.metric for rule in known if rule.kind == "change"}
    watched = {rule.metric for rule in known if rule.metric} | {*rules.MEMORY_OF.values()}
    counts = [
        rules.RECENT_VALUES + rules.MAX_BASELINE_VALUES if m in compared else 1 for m in watched
    ]
    cursor = await connection.cursor(binary=True).execute(
        LATEST, [models, bounds, list(watched), counts, account]
    )
    for model, metric, packed in await cursor.fetchall():
        samples = np.frombuffer(packed, SAMPLES)
        situations[model].latest[metric] = (
            samples["at"].astype(np.int64), samples["value"].astype(np.float64)
        )  # fmt: skip
    cursor = await connection.execute(OPEN, [account, models])
    for model, rule, metric, id, expected in await cursor.fetchall():
        situations[model].open[rule, metric] = id, expected
    cursor = await connection.execute(RECOVERED, [account, models])
    for model, rule, metric, until in await cursor.fetchall():
        await _look_behind(connection, account, model, situations[model], metric, until)
        situations[model].recovered[rule, metric] = to_us(until)
    return situations


async def _look_behind(
    connection: Connection, account: str, model: str, situation: Situation, metric: str,
    until: datetime,
) -> None:  # fmt: skip
    """Replace the extremes of a recovered incident by those of later samples."""
    peaks = situation.recorded.get(metric)
    recovered = to_us(until)
    if peaks is None or not min(peaks.least_at, peaks.greatest_at) <= recovered < peaks.newest:
        return
    parameters = [until, from_us(peaks.newest), account, model, metric]
    cursor = await connection.execute(AFTER, parameters)
    [(least, greatest)] = await cursor.fetchall()
    if least is not None:
        later = Extremes(least, peaks.newest, greatest, peaks.newest, peaks.newest)
        situation.recorded = {**situation.recorded, metric: later}


async def recent_extremes(connection: Connection) -> dict[str, dict[str, dict[str, Extremes]]]:
    """Read the extremes of the last minute, by account, model and metric."""
    extremes_by_account: dict[str, dict[str, dict[str, Extremes]]] = {}
    cursor = await connection.execute(RECENT_EXTREMES)
    for account, model, metric, least, greatest, newest in await cursor.fetchall():
        at = to_us(newest)
        extremes = Extremes(least, at, greatest, at, at)
        extremes_by_account.setdefault(account, {}).setdefault(model, {})[metric] = extremes
    return extremes_by_account
