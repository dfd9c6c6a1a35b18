"""Incidents: noticed after each commit, stored, and only then told.

An incident is a row; that there is one open of a kind is the database's
promise, so whichever replica notices first raises it and the others find it
there. What was stored and, because its replica died, not sent is sent by the
sweep, which also notices what does not come: silence.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog

from common.bus import Bus
from common.contracts.monitoring import (
    ALERT_RAISED,
    EPOCH,
    MICROSECOND,
    AlertNews,
    Rule,
)
from common.errors import ServiceError
from common.postgres import Connection, Database
from metrics import rules
from metrics.batch import Extremes
from metrics.incidents import raise_alert, recover
from metrics.rules import Values, Verdict, judge

log = structlog.get_logger()

# What is recorded without pause is looked at this often, in seconds; more
# seldom where looking would take more than a tenth of the time.
PACE = 0.5
# Models of an account that are looked at together; each may bring thousands of values.
TOGETHER = 50
SWEEP = 10.0
# Looking takes at most a tenth of the time; recording and answering come first.
EASE = 9
# However long it took, in seconds: a database that hung is no reason to look away.
MOST_PAUSE = 30.0
# What is older than a day is history that is being brought in, and nobody's emergency.
LATEST = """
select model, metric, array_agg(value order by at desc),
    (extract(epoch from max(at) - '2000-01-01Z') * 1e6)::bigint
from series join unnest(%s::text[], %s::integer[]) as wanted(metric, most) using (metric)
cross join lateral (
    select at, value from samples where series = id and at > now() - interval '24 hours'
    order by at desc limit most
) as newest
where account = %s and model = any(%s)
group by model, metric
"""
# One replica at a time for each account: what one raises the next one sees. Of
# a series that grows fast the planner would sort the whole day: it is told to
# go backwards along the index.
TAKE_TURNS = """
select pg_advisory_xact_lock(hashtext('alerts'), hashtext(%s)),
    set_config('enable_bitmapscan', 'off', true)
"""
OPEN = """
select model, rule, metric, id, expected from alerts
where account = %s and model = any(%s) and recovered_at is null
"""
# Replicas look within a minute of a commit, whatever is the matter.
OVER = """
select model, rule, metric, (extract(epoch from max(until) - '2000-01-01Z') * 1e6)::bigint
from alerts where account = %s and model = any(%s)
and until > now() - interval '24 hours' and recovered_at > now() - interval '1 hour'
group by model, rule, metric
"""
NEWS = """
select id, account, model, type, message, severity, raised_at, recovery, recovered_at, announced
from alerts where {which}
and (announced < 1 or (announced < 2 and recovered_at is not null))
order by number for update skip locked limit 100
"""
UNSENT = "coalesce(recovered_at, raised_at) < now() - interval '5 seconds'"
NEWEST = """
select account, model, metric, newest from series cross join lateral (
    select at as newest from samples where series = id and at > now() - interval '31 days'
    order by at desc limit 1
) as s
"""
INTERVALS = """
select extract(epoch from at) from samples where series in (
    select id from series where account = %s and model = %s and metric = %s
) and at > now() - interval '24 hours' order by at desc limit %s
"""

Model = tuple[str, str]
# By rule and metric: the incident's id, and what was expected when it began.
OpenOnes = dict[tuple[str, str | None], Sequence[Any]]
# By metric: the newest values, newest first, and the newest one's time.
Latest = Mapping[str, tuple[list[float], int]]
# By model and metric, what was just recorded.
Recorded = Mapping[str, Mapping[str, Extremes]]


class Watch:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus
        self._noted: dict[str, dict[str, dict[str, Extremes]]] = {}
        self._waiting = asyncio.Event()
        self.evaluating = False

    def note(self, account: str, model: str, recorded: Mapping[str, Extremes]) -> None:
        """Something was committed; it will be looked at."""
        noted = self._noted.setdefault(account, {}).setdefault(model, {})
        for metric, extremes in recorded.items():
            if metric in noted:
                noted[metric].add(extremes)
            else:
                noted[metric] = extremes
        self._waiting.set()

    async def run(self) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            self.evaluating = True
            start = time.monotonic()
            # Some of each account's in turn: nobody waits for another's ten thousand models.
            left = True
            while left:
                left = False
                for account, models in list(self._noted.items()):
                    some = {model: models.pop(model) for model in list(models)[:TOGETHER]}
                    left = left or bool(models)
                    await self._evaluate(account, some)
            self._noted = {account: models for account, models in self._noted.items() if models}
            self.evaluating = False
            await asyncio.sleep(_pause(PACE, start))

    async def _evaluate(self, account: str, recorded: Recorded) -> None:
        if not recorded:
            return
        try:
            await self.evaluate(account, recorded)
        except ServiceError:  # the database is away
            await asyncio.sleep(PACE)
            for model, extremes in recorded.items():
                self.note(account, model, extremes)
        except Exception:
            log.exception("not evaluated", account=account, models=list(recorded))

    async def evaluate(self, account: str, recorded: Recorded) -> None:
        """Raise and recover what the newest values of some models give cause for."""
        known = (await rules.OwnRules(self.database).all(account)).rules
        models = list(recorded)
        async with self.database.connection() as connection:
            await connection.execute(TAKE_TURNS, [account])
            # Only what is compared with its past needs more than the newest value.
            compared = {rule.metric for rule in known if rule.kind == "change"}
            watched = {rule.metric for rule in known if rule.metric} | {*rules.MEMORY_OF.values()}
            most = [rules.RECENT + rules.MOST_BEFORE if m in compared else 1 for m in watched]
            cursor = await connection.execute(LATEST, [list(watched), most, account, models])
            latest: dict[str, dict[str, tuple[list[float], int]]] = {model: {} for model in models}
            for model, metric, values, at in await cursor.fetchall():
                latest[model][metric] = values, at
            cursor = await connection.execute(OPEN, [account, models])
            open_ones: dict[str, OpenOnes] = {model: {} for model in models}
            for model, rule, metric, *rest in await cursor.fetchall():
                open_ones[model][rule, metric] = rest
            cursor = await connection.execute(OVER, [account, models])
            over = {tuple(which): until for *which, until in await cursor.fetchall()}
            changed = [
                await self._apply(connection, account, model, rule, metric, verdict, incident)
                for model in models
                for rule in known
                if rule.model_id in (None, model)
                for metric, verdict, incident in _verdicts(
                    rule,
                    latest[model],
                    recorded[model],
                    open_ones[model],
                    over.get((model, rule.id, rule.metric), 0),
                )
            ]
        if ids := [id for ids in changed for id in ids]:
            await self.announce("id = any(%s)", [ids])

    async def _apply(
        self, connection: Connection, account: str, model: str, rule: Rule, metric: str | None,
        verdict: Verdict, incident: str | None,
    ) -> list[str]:  # fmt: skip
        if incident is None and verdict.cause:
            incident = await raise_alert(connection, account, model, rule, metric, verdict)
        if incident and verdict.over and not verdict.still:
            await recover(connection, incident, verdict.over, verdict.until)
        return [incident] if incident else []

    async def announce(self, which: str, parameters: list[Any]) -> None:
        """Send what is stored and was not sent, each once unless this process dies half-way."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(NEWS.format(which=which), parameters)
            for (
                id,
                account,
                model,
                type,
                message,
                severity,
                raised_at,
                recovery,
                over,
                sent,
            ) in await cursor.fetchall():
                news = AlertNews(
                    id=id, model_id=model, type=type, message=message, severity=severity,
                    at=raised_at,
                )  # fmt: skip
                if sent < 1:
                    await self.bus.publish(ALERT_RAISED, news, account, model)
                if over:
                    changes = {
                        "type": f"{type}_recovered", "message": recovery, "severity": "info",
                        "at": over,
                    }  # fmt: skip
                    await self.bus.publish(
                        ALERT_RAISED, news.model_copy(update=changes), account, model
                    )
                await connection.execute(
                    "update alerts set announced = %s where id = %s", [2 if over else 1, id]
                )

    async def sweep(self) -> None:
        """For ever: silence, and what was not sent. Replicas take turns."""
        while True:
            start = time.monotonic()
            try:
                await self.look_for_silence()
                await self.announce(UNSENT, [])
            except ServiceError:
                pass  # the database is away; the pool has said so
            except Exception:
                log.exception("sweep failed")
            await asyncio.sleep(_pause(SWEEP, start))

    async def look_for_silence(self) -> None:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select pg_try_advisory_xact_lock(hashtext('sweep'), hashtext(current_schema()))"
            )
            if await cursor.fetchone() != (True,):
                return
            cursor = await connection.execute(NEWEST)
            newest: dict[Model, dict[str, Any]] = {}
            for account, model, metric, at in await cursor.fetchall():
                newest.setdefault((account, model), {})[metric] = at
            cursor = await connection.execute("select now(), account, rule from rules"
                                              " where rule->>'kind' = 'silence'")  # fmt: skip
            own = [(account, Rule.model_validate(rule)) for _, account, rule in
                   await cursor.fetchall()]  # fmt: skip
            (now,) = await (await connection.execute("select now()")).fetchone() or (None,)
            for (account, model), times in newest.items():
                last = max(times.values())
                if now - last > rules.QUIET:
                    metric = max(times, key=times.__getitem__)
                    await self._default_silence(connection, account, model, metric, now, last)
                for owner, rule in own:
                    if owner == account and rule.model_id in (None, model):
                        await _own_silence(connection, account, model, rule, now, times)

    async def _default_silence(
        self, connection: Connection, account: str, model: str, metric: str, now: Any, last: Any
    ) -> None:
        """Only models that reported regularly are missed."""
        rule = rules.DEFAULTS[-1]
        cursor = await connection.execute(INTERVALS, [account, model, metric, rules.REGULAR + 1])
        times = [float(at) for (at,) in await cursor.fetchall()]
        if len(times) <= rules.REGULAR:
            return
        usual = statistics.median(a - b for a, b in itertools.pairwise(times))
        quiet = (now - last).total_seconds()
        if quiet > rules.QUIET_INTERVALS * usual:
            cause = f"nothing has been recorded for {_minutes(quiet)}; usually every {usual:.3g} s"
            verdict = Verdict(cause, expected={"last": _microseconds(last)})
            await raise_alert(connection, account, model, rule, None, verdict)


def _pause(least: float, start: float) -> float:
    return min(max(least, EASE * (time.monotonic() - start)), MOST_PAUSE)


def _verdicts(
    rule: Rule,
    latest: Latest,
    recorded: Mapping[str, Extremes],
    open_ones: OpenOnes,
    over: int,
) -> list[tuple[str | None, Verdict, str | None]]:
    """What a rule says to what was recorded, and the incident that it has open.

    Until `over` its last incident lasted, in microseconds since 2000.
    """
    if rule.kind == "silence":
        incident = open_ones.get((rule.id, rule.metric))
        came = [e.newest for name, e in recorded.items() if rule.metric in (None, name)]
        # What was under way when it was raised, or came late, does not end it.
        if incident and came and max(came) > incident[1]["last"]:
            return [(rule.metric, Verdict(over="something is recorded again"), incident[0])]
        return []
    metric = rule.metric
    if metric is None or metric not in recorded or metric not in latest:
        return []
    incident, expected = open_ones.get((rule.id, metric), (None, None))
    newest, at = latest[metric]
    limits, _ = latest.get(rules.MEMORY_OF.get(metric, ""), (None, 0))
    values = Values.since(over, newest, recorded[metric], limits[0] if limits else None)
    verdict = judge(rule, metric, values, expected)
    verdict.until = at
    return [(metric, verdict, incident)]


async def _own_silence(
    connection: Connection, account: str, model: str, rule: Rule, now: Any, times: dict[str, Any]
) -> None:
    watched = [at for metric, at in times.items() if rule.metric in (None, metric)]
    if not watched:
        return
    last = max(watched)
    quiet = (now - last).total_seconds()
    if rule.after is not None and quiet > rule.after:
        what = f"no {rule.metric}" if rule.metric else "nothing"
        cause = f"{what} has been recorded for {_minutes(quiet)}"
        verdict = Verdict(cause, expected={"last": _microseconds(last)})
        await raise_alert(connection, account, model, rule, rule.metric, verdict)


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
