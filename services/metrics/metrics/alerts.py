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
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog

from common.bus import Bus
from common.contracts.monitoring import ALERT_RAISED, AlertNews, Rule
from common.errors import ServiceError
from common.postgres import Connection, Database
from metrics import rules, situation
from metrics.batch import Extremes
from metrics.incidents import raise_alert, recover
from metrics.rules import TAKE_TURNS, Verdict
from metrics.situation import Recorded, microseconds

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
FIELDS = ("id", "model_id", "type", "message", "severity", "at")
NEWS = """
select account, recovery, recovered_at, announced, id, model, type, message, severity, raised_at
from alerts where {which}
and (announced < 1 or (announced < 2 and recovered_at is not null))
order by number for update skip locked limit %s
"""
ANNOUNCED = """
update alerts set announced = case when recovered_at is null then 1 else 2 end where id = any(%s)
"""
UNSENT = "coalesce(recovered_at, raised_at) < now() - interval '5 seconds'"
NEWEST = """
select account, model, metric, newest from series cross join lateral (
    select at as newest from samples where series = id and at > now() - interval '31 days'
    order by at desc limit 1
) as s
"""
OF_MODEL = "where account = %s and model = %s"
MISSED = "select account, model, rule from alerts where recovered_at is null and rule = any(%s)"
INTERVALS = """
select extract(epoch from at) from samples where series in (
    select id from series where account = %s and model = %s and metric = %s
) and at > now() - interval '24 hours' order by at desc limit %s
"""
# What came together is one report, of the time of its newest sample.
REPORTS = """
select extract(epoch from max(at) - '2000-01-01Z'), arrival / 256e6 from (
    select at, arrival from samples where series in (
        select id from series where account = %s and model = %s and metric = %s
    ) and at > now() - interval '24 hours' order by at desc limit 2000
) as newest where arrival > 0 group by arrival order by 1
"""
# Of fewer nobody knows how they come.
FEWEST_REPORTS = 5

Model = tuple[str, str]
# A rule and whose it is; nobody's is the default.
Owned = tuple[str | None, Rule]


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
        await self.look_back()
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
        changed: list[str] = []
        async with self.database.connection() as connection:
            await connection.execute(TAKE_TURNS, [account])
            # Only now: a rule that is deleted meanwhile would never end what it raised.
            known = [*rules.DEFAULTS, *await rules.own(connection, account)]
            situations = await situation.read(connection, account, recorded, known)
            for model, found in situations.items():
                for rule in known:
                    if rule.model_id in (None, model):
                        for metric, verdict, incident in found.verdicts(rule):
                            changed += await self._apply(
                                connection, account, model, rule, metric, verdict, incident
                            )
        if changed:
            await self.announce("id = any(%s)", [changed])

    async def look_back(self) -> None:
        """What was recorded before this replica was there, and perhaps nobody has looked at."""
        try:
            async with self.database.connection() as connection:
                found = await situation.lately(connection)
        except ServiceError as error:
            log.warning("not looked back", error=error.message)
            return
        for account, models in found.items():
            for model, recorded in models.items():
                self.note(account, model, recorded)

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
        found = TOGETHER
        while found == TOGETHER:
            async with self.database.connection() as connection:
                cursor = await connection.execute(NEWS.format(which=which), [*parameters, TOGETHER])
                rows = await cursor.fetchall()
                for account, recovery, over, sent, *news in rows:
                    await self._send(account, AlertNews(**dict(zip(FIELDS, news, strict=True))),
                                     recovery if over else "", over, sent)  # fmt: skip
                ids = [row[4] for row in rows]
                await connection.execute(ANNOUNCED, [ids])
            found = len(rows)

    async def _send(
        self, account: str, news: AlertNews, recovery: str, over: datetime | None, sent: int
    ) -> None:
        if not sent:
            await self.bus.publish(ALERT_RAISED, news, account, news.model_id)
        if over:
            changes = {
                "type": f"{news.type}_recovered", "message": recovery, "severity": "info",
                "at": over,
            }  # fmt: skip
            recovered = news.model_copy(update=changes)
            await self.bus.publish(ALERT_RAISED, recovered, account, news.model_id)

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
        raised: list[str | None] = []
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select pg_try_advisory_xact_lock(hashtext('sweep'), hashtext(current_schema()))"
            )
            if await cursor.fetchone() != (True,):
                return
            newest = await _newest(connection)
            known = await _silence_rules(connection)
            cursor = await connection.execute(MISSED, [[rule.id for _, rule in known]])
            missed = set(await cursor.fetchall())
            (now,) = await (await connection.execute("select now()")).fetchone() or (None,)
            for (account, model), times in newest.items():
                for owner, rule in known:
                    if (
                        owner in (None, account)
                        and rule.model_id in (None, model)
                        and (account, model, rule.id) not in missed
                        and await _silence(connection, account, model, rule, now, times)
                    ):
                        raised.append(
                            await self._miss(connection, account, model, (owner, rule), now)
                        )
        if ids := [id for id in raised if id is not None]:
            await self.announce("id = any(%s)", [ids])

    async def _miss(
        self, connection: Connection, account: str, model: str, known: Owned, now: datetime
    ) -> str | None:
        """Raise it, unless its cause or its rule has gone before the account's turn came."""
        await connection.execute(TAKE_TURNS, [account])
        owner, rule = known
        cursor = await connection.execute("select from rules where id = %s", [rule.id])
        if owner is not None and not cursor.rowcount:
            return None
        times = (await _newest(connection, account, model)).get((account, model), {})
        verdict = await _silence(connection, account, model, rule, now, times)
        if verdict is None:
            return None
        return await raise_alert(connection, account, model, rule, rule.metric, verdict)


def _pause(least: float, start: float) -> float:
    return min(max(least, EASE * (time.monotonic() - start)), MOST_PAUSE)


async def _newest(connection: Connection, *model: str) -> dict[Model, dict[str, datetime]]:
    """When each metric of each model, or of one of an account's, was recorded last."""
    cursor = await connection.execute(f"{NEWEST} {OF_MODEL if model else ''}".encode(), model)
    newest: dict[Model, dict[str, datetime]] = {}
    for account, name, metric, at in await cursor.fetchall():
        newest.setdefault((account, name), {})[metric] = at
    return newest


async def _silence_rules(connection: Connection) -> list[Owned]:
    cursor = await connection.execute(
        "select account, rule from rules where rule->>'kind' = 'silence'"
    )
    own = [(account, Rule.model_validate(rule)) for account, rule in await cursor.fetchall()]
    return [*own, (None, rules.DEFAULTS[-1])]


async def _silence(
    connection: Connection, account: str, model: str, rule: Rule, now: datetime,
    times: dict[str, datetime],
) -> Verdict | None:  # fmt: skip
    """`times`: when each metric of the model was recorded last."""
    watched = {metric: at for metric, at in times.items() if rule.metric in (None, metric)}
    if not watched:
        return None
    metric = max(watched, key=watched.__getitem__)
    quiet = (now - watched[metric]).total_seconds()
    least = rules.QUIET if rule.after is None else rule.after
    if quiet <= least:
        return None
    behind, between = await _habit(connection, account, model, metric)
    quiet -= behind
    if quiet <= least:
        return None
    what = f"no {rule.metric}" if rule.metric else "nothing"
    cause = f"{what} has been recorded for {_minutes(quiet)}"
    if rule.after is None:
        usual = await _interval(connection, account, model, metric)
        if usual is None:
            return None
        usual = max(usual, between)
        if quiet <= rules.QUIET_INTERVALS * usual:
            return None
        cause += f"; usually every {usual:.3g} s"
    return Verdict(cause, expected={"last": microseconds(watched[metric])})


async def _interval(connection: Connection, account: str, model: str, metric: str) -> float | None:
    """Seconds between samples, of a metric that came regularly within a day."""
    cursor = await connection.execute(INTERVALS, [account, model, metric, rules.REGULAR])
    seconds = [float(at) for (at,) in await cursor.fetchall()]
    if len(seconds) < rules.REGULAR:
        return None
    return statistics.median(a - b for a, b in itertools.pairwise(seconds))


async def _habit(
    connection: Connection, account: str, model: str, metric: str
) -> tuple[float, float]:
    """How far reports are behind their time, and how far apart, in seconds.

    A clock may be hours behind, or samples be sent an hour's together: that
    is no silence. 0, 0 where the times of reports have nothing to do with when
    they came: history that is brought in.
    """
    cursor = await connection.execute(REPORTS, [account, model, metric])
    reports = [(float(at), float(arrival)) for at, arrival in await cursor.fetchall()]
    if len(reports) < FEWEST_REPORTS:
        return 0.0, 0.0
    lags = [arrival - at for at, arrival in reports]
    if max(lags) - min(lags) > (reports[-1][0] - reports[0][0]) / 10:
        return 0.0, 0.0
    gaps = [later - at for (at, _), (later, _) in itertools.pairwise(reports)]
    return max(statistics.median(lags), 0.0), statistics.median(gaps)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
