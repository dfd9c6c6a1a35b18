"""Alerts, which are evaluated after each commit, stored, and then published.

An incident is a row, and the database guarantees that only one of a kind is
open, so whichever replica notices it first raises it and the others find it
there. The sweep publishes alerts whose replica died before it did, and looks
for silence.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from common.bus import Bus
from common.contracts.alerts import ALERT_RAISED, AlertEvent, Rule
from common.errors import ServiceError
from common.postgres import Connection, Database
from common.unreadable import Unreadable
from metrics import rules, silence, situation
from metrics.baselines import Baselines
from metrics.batch import Extremes
from metrics.descriptions import Descriptions
from metrics.incidents import has_held, raise_alert, recover
from metrics.notices import Notices
from metrics.rules import TAKE_TURNS, Verdict
from metrics.situation import Recorded
from metrics.units import DESCRIBED

log = structlog.get_logger()

# Time between two evaluations while samples keep coming; longer where an evaluation
# takes more than a tenth of it.
EVALUATE_INTERVAL_S = 0.5
# Models of an account evaluated together; each may have thousands of values.
MAX_MODELS_TOGETHER = 50
SWEEP_INTERVAL_S = 10.0
# Pauses take nine times as long as the work: recording and answering come first.
SWEEP_PAUSE_FACTOR = 9
# After a database has hung, the pause is no longer than this.
MAX_PAUSE_S = 30.0
EVENT_FIELDS = ("id", "rule_id", "model_id", "type", "message", "severity", "at")
UNPUBLISHED = """
select account, recovery, recovered_at, announced,
    id, rule, model, type, message, severity, raised_at
from alerts where {which} and not (id = any(%s))
and (announced < 1 or (announced < 2 and recovered_at is not null))
order by number for update skip locked limit %s
"""
MARK_PUBLISHED = """
update alerts set announced = case when recovered_at is null then 1 else 2 end where id = any(%s)
"""
OVERDUE = "coalesce(recovered_at, raised_at) < now() - interval '5 seconds'"


class Watch:
    """Evaluation of rules against recorded samples, and publishing of the resulting alerts."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus
        self.baselines = Baselines(database)
        self.descriptions = Descriptions(database)
        self.notices = Notices(database, bus)
        self.unreadable = Unreadable("alert")
        self._noted: dict[str, dict[str, dict[str, Extremes]]] = {}
        self._waiting = asyncio.Event()
        self.evaluating = False

    def observe(self, account: str, model: str, recorded: Mapping[str, Extremes]) -> None:
        """Schedule the evaluation of committed samples."""
        noted = self._noted.setdefault(account, {}).setdefault(model, {})
        for metric, extremes in recorded.items():
            if metric in noted:
                noted[metric].add(extremes)
            else:
                noted[metric] = extremes
        self._waiting.set()

    async def run(self) -> None:
        """Evaluate the scheduled models until cancelled."""
        await self.look_back()
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            self.evaluating = True
            start = time.monotonic()
            # A part of each account's models in turn: no account waits for another's ten thousand.
            left = True
            while left:
                left = False
                for account, models in list(self._noted.items()):
                    some = {
                        model: models.pop(model) for model in list(models)[:MAX_MODELS_TOGETHER]
                    }
                    left = left or bool(models)
                    await self._evaluate(account, some)
            self._noted = {account: models for account, models in self._noted.items() if models}
            self.evaluating = False
            await asyncio.sleep(_pause(EVALUATE_INTERVAL_S, start))

    async def _evaluate(self, account: str, recorded: Recorded) -> None:
        """Evaluate some models; reschedule them if the database is unavailable."""
        if not recorded:
            return
        try:
            await self.evaluate(account, recorded)
        except ServiceError:
            await asyncio.sleep(EVALUATE_INTERVAL_S)
            for model, extremes in recorded.items():
                self.observe(account, model, extremes)
        except Exception:
            log.exception("rules not evaluated", account=account, models=list(recorded))

    async def evaluate(self, account: str, recorded: Recorded) -> None:
        """Raise or resolve alerts from newly recorded samples."""
        changed: list[str] = []
        DESCRIBED.set(await self.descriptions.get(account))
        if lacking := self.baselines.lacking(account, recorded):
            async with self.database.connection() as connection:
                account_rules = await rules.known(connection, account)
            await self.baselines.renew(account, lacking, account_rules)
        async with self.database.connection() as connection:
            await connection.execute(TAKE_TURNS, [account])
            # Read under the lock: a rule deleted meanwhile could never end its alerts.
            enabled = [rule for rule in await rules.known(connection, account) if not rule.muted]
            situations = await situation.read(
                connection, account, recorded, enabled, self.baselines
            )
            for model, facts in situations.items():
                for rule in enabled:
                    if rule.model_id in (None, model):
                        for metric, verdict, incident in facts.verdicts(rule):
                            changed += await self._apply(
                                connection, account, model, rule, metric, verdict, incident
                            )
        if changed:
            await self.publish("id = any(%s)", [changed])

    async def look_back(self) -> None:
        """Schedule the evaluation of samples of the last minute, in case their replica has died."""
        try:
            async with self.database.connection() as connection:
                recent = await situation.recent_extremes(connection)
        except ServiceError as error:
            log.warning("recent samples not read", error=error.message)
            return
        for account, models in recent.items():
            for model, recorded in models.items():
                self.observe(account, model, recorded)

    async def _apply(
        self, connection: Connection, account: str, model: str, rule: Rule, metric: str | None,
        verdict: Verdict, incident: str | None,
    ) -> list[str]:  # fmt: skip
        """Raise or resolve an alert as the verdict says; return its id in a list, or []."""
        if incident is None and await has_held(connection, account, model, rule, metric, verdict):
            incident = await raise_alert(connection, account, model, rule, metric, verdict)
        if incident and verdict.recovery and not verdict.lasts:
            await recover(connection, incident, f"{model}: {verdict.recovery}", verdict.until)
        return [incident] if incident else []

    async def publish(self, which: str, parameters: list[Any]) -> None:
        """Publish stored alerts; one may be repeated if this process dies meanwhile."""
        count = MAX_MODELS_TOGETHER
        while count == MAX_MODELS_TOGETHER:
            async with self.database.connection() as connection:
                cursor = await connection.execute(
                    UNPUBLISHED.format(which=which),
                    [*parameters, self.unreadable.ids, MAX_MODELS_TOGETHER],
                )
                rows = await cursor.fetchall()
                ids: list[str] = []
                for account, recovery, recovered_at, published, *fields in rows:
                    parse = partial(AlertEvent, **dict(zip(EVENT_FIELDS, fields, strict=True)))
                    event = self.unreadable.read(fields[0], parse)
                    if event is None:
                        continue
                    ids.append(event.id)
                    if not published:
                        await self.bus.publish(ALERT_RAISED, event, account, event.model_id)
                    if recovered_at:
                        recovered = _recovered(event, recovery, recovered_at)
                        await self.bus.publish(ALERT_RAISED, recovered, account, event.model_id)
                await connection.execute(MARK_PUBLISHED, [ids])
            count = len(rows)
        self.notices.delivery.wake()

    async def sweep(self) -> None:
        """Periodically detect silence and publish overdue alerts, until cancelled."""
        while True:
            start = time.monotonic()
            try:
                await self.look_for_silence()
                await self.publish(OVERDUE, [])
            except ServiceError:
                pass  # the database is unavailable; the pool has logged it
            except Exception:
                log.exception("sweep failed")
            await asyncio.sleep(_pause(SWEEP_INTERVAL_S, start))

    async def look_for_silence(self) -> None:
        if raised := await silence.check(self.database):
            await self.publish("id = any(%s)", [raised])


def _recovered(event: AlertEvent, recovery: str, at: datetime) -> AlertEvent:
    changes = {"type": f"{event.type}_recovered", "message": recovery, "severity": "info", "at": at}
    return event.model_copy(update=changes)


def _pause(least_s: float, start: float) -> float:
    return min(max(least_s, SWEEP_PAUSE_FACTOR * (time.monotonic() - start)), MAX_PAUSE_S)
