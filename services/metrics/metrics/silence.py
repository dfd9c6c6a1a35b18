"""Detection of silence: models that reported regularly and have stopped.

Replicas take turns at looking for it, since no commit triggers it.
"""

import itertools
import statistics
from datetime import datetime

from common.contracts.alerts import Rule
from common.contracts.history import MAX_WRITERS
from common.contracts.timestamps import sql_us, to_us
from common.postgres import Connection, Database
from metrics import rules
from metrics.incidents import raise_alert
from metrics.rules import TAKE_TURNS, Verdict

LOCK = "select pg_try_advisory_xact_lock(hashtext('sweep'), hashtext(current_schema()))"
NEWEST = """
select account, model, metric, newest from series cross join lateral (
    select at as newest from samples where series = id and at > now() - interval '31 days'
    order by at desc limit 1
) as s
"""
OF_MODEL = "where account = %s and model = %s"
OPEN = "select account, model, rule from alerts where recovered_at is null and rule = any(%s)"
INTERVALS = """
select extract(epoch from at) from samples where series in (
    select id from series where account = %s and model = %s and metric = %s
) and at > now() - interval '24 hours' order by at desc limit %s
"""
# Samples that arrived together are one report, with the time of its newest sample.
REPORTS = f"""
select {sql_us("max(at)")} / 1e6, arrival / {MAX_WRITERS} / 1e6 from (
    select at, arrival from samples where series in (
        select id from series where account = %s and model = %s and metric = %s
    ) and at > now() - interval '24 hours' order by at desc limit 2000
) as newest where arrival > 0 group by arrival order by 1
"""  # noqa: S608  (constants)
# Too few reports to infer their interval.
MIN_REPORTS = 5

# An account and a model.
Model = tuple[str, str]
# A rule and its account; None for the default rule.
Owned = tuple[str | None, Rule]


async def check(database: Database) -> list[str]:
    """Raise an alert for each model that has fallen silent; return the ids of the alerts.

    While another replica checks, nothing is raised.
    """
    raised: list[str | None] = []
    async with database.connection() as connection:
        cursor = await connection.execute(LOCK)
        if await cursor.fetchone() != (True,):
            return []
        newest = await _newest(connection)
        owned_rules = await _silence_rules(connection)
        overridden = {(owner, rule.id) for owner, rule in owned_rules}
        cursor = await connection.execute(OPEN, [[rule.id for _, rule in owned_rules]])
        open_alerts = set(await cursor.fetchall())
        (now,) = await (await connection.execute("select now()")).fetchone() or (None,)
        for (account, model), times in newest.items():
            for owner, rule in owned_rules:
                if (
                    not rule.muted
                    and (
                        owner == account or (owner is None and (account, rule.id) not in overridden)
                    )
                    and rule.model_id in (None, model)
                    and (account, model, rule.id) not in open_alerts
                    and await _judge(connection, account, model, rule, now, times)
                ):
                    raised.append(await _raise(connection, account, model, rule, now))
    return [id for id in raised if id is not None]


async def _raise(
    connection: Connection, account: str, model: str, rule: Rule, now: datetime
) -> str | None:
    """Raise an alert, unless its cause or rule has vanished since the first check."""
    await connection.execute(TAKE_TURNS, [account])
    if rule not in await rules.known(connection, account):
        return None
    times = (await _newest(connection, account, model)).get((account, model), {})
    verdict = await _judge(connection, account, model, rule, now, times)
    if verdict is None:
        return None
    return await raise_alert(connection, account, model, rule, rule.metric, verdict)


async def _newest(connection: Connection, *model: str) -> dict[Model, dict[str, datetime]]:
    """Return when each metric was last recorded, of all models or of one model."""
    cursor = await connection.execute(f"{NEWEST} {OF_MODEL if model else ''}".encode(), model)
    newest: dict[Model, dict[str, datetime]] = {}
    for account, name, metric, at in await cursor.fetchall():
        newest.setdefault((account, name), {})[metric] = at
    return newest


async def _silence_rules(connection: Connection) -> list[Owned]:
    """Return the silence rules of all accounts, and the default silence rule."""
    cursor = await connection.execute(
        "select account, id, rule, created_at from rules where rule->>'kind' = 'silence'"
    )
    own = [
        (account, rule)
        for account, *row in await cursor.fetchall()
        for rule in rules.readable(*row)
    ]
    return [*own, (None, rules.DEFAULTS[-1])]


async def _judge(
    connection: Connection, account: str, model: str, rule: Rule, now: datetime,
    times: dict[str, datetime],
) -> Verdict | None:  # fmt: skip
    """Return a verdict if the model is silent; `times`: when each metric was last recorded."""
    watched = {metric: at for metric, at in times.items() if rule.metric in (None, metric)}
    if not watched:
        return None
    metric = max(watched, key=watched.__getitem__)
    quiet_s = (now - watched[metric]).total_seconds()
    min_quiet_s = rules.MIN_SILENCE_S if rule.after is None else rule.after
    if quiet_s <= min_quiet_s:
        return None
    lag_s, gap_s = await _report_timing(connection, account, model, metric)
    quiet_s -= lag_s
    if quiet_s <= min_quiet_s:
        return None
    missing = f"no {rule.metric}" if rule.metric else "nothing"
    cause = f"{missing} has been recorded for {_duration(quiet_s)}"
    if rule.after is None:
        usual_s = await _interval(connection, account, model, metric)
        if usual_s is None:
            return None
        usual_s = max(usual_s, gap_s)
        if quiet_s <= rules.MIN_SILENT_INTERVALS * usual_s:
            return None
        cause += f"; usually every {usual_s:.3g} s"
    return Verdict(cause, expected={"last": to_us(watched[metric])})


async def _interval(connection: Connection, account: str, model: str, metric: str) -> float | None:
    """Return the median seconds between samples; None for too few samples."""
    cursor = await connection.execute(
        INTERVALS, [account, model, metric, rules.MIN_REGULAR_SAMPLES]
    )
    seconds = [float(at) for (at,) in await cursor.fetchall()]
    if len(seconds) < rules.MIN_REGULAR_SAMPLES:
        return None
    return statistics.median(a - b for a, b in itertools.pairwise(seconds))


async def _report_timing(
    connection: Connection, account: str, model: str, metric: str
) -> tuple[float, float]:
    """Return how late samples usually arrive, and the interval between reports, in seconds.

    A slow clock, or samples sent in large batches, must not count as silence.
    Returns 0, 0 for too few reports, or for lags that vary widely, as in a backfill.
    """
    cursor = await connection.execute(REPORTS, [account, model, metric])
    reports = [(float(at), float(arrival)) for at, arrival in await cursor.fetchall()]
    if len(reports) < MIN_REPORTS:
        return 0.0, 0.0
    lags = [arrival - at for at, arrival in reports]
    if max(lags) - min(lags) > (reports[-1][0] - reports[0][0]) / 10:
        return 0.0, 0.0
    gaps = [later - at for (at, _), (later, _) in itertools.pairwise(reports)]
    return max(statistics.median(lags), 0.0), statistics.median(gaps)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
