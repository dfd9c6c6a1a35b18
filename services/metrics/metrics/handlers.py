"""What the service is asked, and who else hears of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from common.bus import Bus
from common.context import current
from common.contracts.monitoring import (
    METRICS_RECORDED,
    USUAL_METRICS,
    Alerts,
    AlertsRequest,
    History,
    HistoryRequest,
    KnownModel,
    MetricUpdate,
    ModelRequest,
    Monitoring,
    MonitorRequest,
    NewRule,
    Nothing,
    Recalled,
    RecallRequest,
    Recorded,
    Rule,
    RuleRequest,
    Rules,
    Samples,
    Window,
)
from common.postgres import Connection, Database
from metrics import batch, history, incidents, window
from metrics.alerts import Watch
from metrics.batch import Batch, Clock
from metrics.plots import draw
from metrics.recommendations import recommend
from metrics.rules import MEMORY_OF, OwnRules
from metrics.series import Series
from metrics.statistics import summarise
from metrics.window import EMPTY
from metrics.writer import Rows, Stored, Writer, now

log = structlog.get_logger()

# What the answer always has, by the name of the metric that it comes from.
ALWAYS = {"throughput": "throughput", "latency": "latency", "cost_per_inference": "costs"}
# Moments that are told without a pause, in which others are to be answered.
AT_ONCE = 100
# Older samples are history that is being brought in, and raise no alert (alerts.LIVE).
LIVE = 86_400_000_000

LATEST = """
select metric, (select value from samples where series = id order by at desc limit 1)
from series where id = any(%s)
"""


@dataclass(slots=True)
class Recording:
    """A call to record, once it is understood."""

    account: str
    batch: Batch


class Handlers:
    def __init__(self, database: Database, bus: Bus, most_series: int) -> None:
        self.database = database
        self.bus = bus
        self.series = Series(database, most_series)
        self.writer = Writer(database, self.tell)
        self.watch = Watch(database, bus)
        self.rules = OwnRules(database)
        self._clock = Clock()

    async def run(self) -> None:
        """What goes on beside the answers; ends only with the process."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run())
            tasks.create_task(self.watch.run())
            tasks.create_task(self.watch.sweep())

    async def record(self, request: Samples) -> Recorded:
        """All samples are committed and told when this returns, each once however often it comes.

        Raises:
            InvalidRequest: too many series.
            Unavailable: the database is away; nothing was stored, or all of it.
        """
        account = current.get().account
        content = batch.unpack(request, self._clock)
        numbers = await self.series.number(account, content.pairs)
        series = batch.series_of(content, numbers)
        await self.writer.write(
            Recording(account, content),
            Rows(series, content.at, content.value, content.timed),
            current.get().idempotency_key,
        )
        return Recorded()

    async def tell(self, committed: list[Stored[Recording]]) -> None:
        """What was committed together: to the watch, and to whoever listens, by time."""
        together: dict[tuple[str, str], batch.Moments] = {}
        for stored in committed:
            content = stored.call.batch
            if stored.new is not None:
                if not stored.new.any():
                    continue
                content = content.only(stored.new)
            self._note(stored.call.account, content)
            for model, moments in batch.moments(content):
                found = together.setdefault((stored.call.account, model), {})
                for at, metrics in moments.items():
                    found.setdefault(at, {}).update(metrics)
        count = 0
        for (account, model), moments in together.items():
            for at in batch.chosen(moments):
                update = MetricUpdate.model_construct(
                    model_id=model,
                    timestamp=batch.to_text(at),
                    metrics=moments[at],
                    arrival=committed[0].arrival,
                )
                await self.bus.publish(METRICS_RECORDED, update, account, model)
                count += 1
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _note(self, account: str, content: Batch) -> None:
        """What is not history is looked at for alerts."""
        live = content.at > now() - LIVE
        if not live.any():
            return
        recent = content if live.all() else content.only(live)
        found = batch.extremes(recent)
        for model, numbers in recent.models.items():
            self.watch.note(account, model, {recent.pairs[n][1]: found[n] for n in numbers})

    async def monitor(self, request: MonitorRequest) -> Monitoring:
        """Statistics, plots and advice. Raises NotFound for a model of nobody's, or another's."""
        account = current.get().account
        until = datetime.now(UTC)
        since = until - timedelta(days=request.days)
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
            wanted = request.metrics or [metric for metric in USUAL_METRICS if metric in numbers]
            shown = dict.fromkeys([*ALWAYS, *wanted])
            read = [m for m in dict.fromkeys([*shown, *USUAL_METRICS]) if m in numbers]
            found = await window.read(connection, [numbers[metric] for metric in read], since)
            latest = await _latest(connection, numbers)
        histories = {metric: found.get(numbers[metric], EMPTY) for metric in read}
        # A year's trend takes tenths of a second, in which others are to be answered.
        return await asyncio.to_thread(
            _describe, request, shown, wanted, histories, latest, Window(since=since, until=until)
        )

    async def history(self, request: HistoryRequest) -> History:
        """When something arrived while somebody was away."""
        account = current.get().account
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
            return await history.find(connection, numbers, request)

    async def recall(self, request: RecallRequest) -> Recalled:
        """What that was, in the form in which it was told."""
        account = current.get().account
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
            return await history.recall(connection, numbers, request)

    async def find_model(self, request: ModelRequest) -> KnownModel:
        """Raises NotFound, also for another account's."""
        account = current.get().account
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
        return KnownModel(metrics=sorted(numbers))

    async def list_alerts(self, request: AlertsRequest) -> Alerts:
        return await incidents.list_alerts(self.database, current.get().account, request)

    async def list_rules(self, _: Nothing) -> Rules:
        return await self.rules.all(current.get().account)

    async def add_rule(self, request: NewRule) -> Rule:
        return await self.rules.add(current.get().account, request)

    async def remove_rule(self, request: RuleRequest) -> Nothing:
        return await self.rules.remove(current.get().account, request)


async def _latest(connection: Connection, numbers: Mapping[str, int]) -> dict[str, float]:
    """The newest values of what advice is made of besides the window."""
    known = {*MEMORY_OF.values(), "batch_size"}
    ids = [
        number
        for metric, number in numbers.items()
        if metric in known or metric.startswith("cost_per_inference_batch_")
    ]
    if not ids:
        return {}
    rows = await (await connection.execute(LATEST, [ids])).fetchall()
    return {metric: value for metric, value in rows if value is not None}


def _describe(
    request: MonitorRequest,
    shown: Mapping[str, Any],
    wanted: list[str],
    histories: Mapping[str, window.History],
    latest: Mapping[str, float],
    window_: Window,
) -> Monitoring:
    return Monitoring.model_construct(
        statistics={
            ALWAYS.get(metric, metric): summarise(metric, histories.get(metric, EMPTY))
            for metric in shown
        },
        plots={
            metric: draw(metric, histories.get(metric, EMPTY), request.plot_format)
            for metric in wanted
        },
        recommendations=recommend(histories, latest),
        window=window_,
    )
