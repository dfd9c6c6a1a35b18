"""Handlers of the metrics service."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from common.background import end
from common.bus import Bus
from common.context import current
from common.contracts.alerts import (
    ADD_RULE,
    CHANGE_RULE,
    LIST_ALERTS,
    LIST_RULES,
    REMOVE_RULE,
    Alerts,
    AlertsRequest,
    ChangeRequest,
    NewRule,
    Rule,
    RuleRemoved,
    RuleRequest,
    Rules,
    RulesRequest,
)
from common.contracts.history import (
    HISTORY,
    METRICS_RECORDED,
    RECALL,
    History,
    HistoryRequest,
    MetricUpdate,
    Recalled,
    RecallRequest,
)
from common.contracts.monitoring import (
    LIST_MODELS,
    MONITOR,
    ModelsSelection,
    Monitoring,
    MonitorRequest,
    RecordedModels,
    Window,
)
from common.contracts.reading import (
    DELETE_SAMPLES,
    READ_SAMPLES,
    RecordedSamples,
    SamplesDeleted,
    SamplesDeletion,
    SamplesRequest,
)
from common.contracts.recording import (
    METRICS_CHANGED,
    RECORD,
    STORAGE,
    USUAL_METRICS,
    Change,
    MetricsChanged,
    Recorded,
    Samples,
    StorageRequest,
    StorageUse,
)
from common.contracts.timestamps import from_us, now_us, to_text, to_us
from common.errors import NotFound
from common.instruments import MetricFamily
from common.postgres import Connection, Database
from common.service import answers, listens
from metrics import batch, caveats, deletion, history, incidents, reading, window
from metrics.alerts import Watch
from metrics.batch import Batch, Clock
from metrics.findings import Changes, examine, find_changes, unplaced
from metrics.plots import draw
from metrics.recommendations import recommend
from metrics.rules import MEMORY_OF, OwnRules
from metrics.series import Series
from metrics.statistics import summarise
from metrics.storage import MIN_STAGED_AGE_US
from metrics.usage import Usage
from metrics.window import EMPTY
from metrics.writer import Writer, writer_families

log = structlog.get_logger()

# Statistics that every answer has, by the metric that they come from.
ALWAYS = {"throughput": "throughput", "latency": "latency", "cost_per_inference": "costs"}
# Calls that wait for the same commit, and answers that are computed together.
MAX_CONCURRENT_RECORDS = 512
MAX_CONCURRENT_READS = 8
# Moments published in a row before other tasks get their turn.
PUBLISHED_PER_TURN = 100
# Older samples are a backfill: they are staged, and raise no alert.
MAX_LIVE_AGE_US = MIN_STAGED_AGE_US
# Between two groups of a backfill, as a multiple of the time that the last one took.
BACKFILL_PAUSE_FACTOR = 1.0

LATEST = """
select metric, (
    select value from recorded where series = id order by at desc limit 1
) from series where id = any(%s)
"""


class Handlers:
    """Handlers of the metrics service, and their background work."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        max_series: int,
        max_stored_bytes: int = 10_000_000_000,
        max_staged_samples: int = 1_000_000,
    ) -> None:
        self.database = database
        self.bus = bus
        self.series = Series(database, max_series)
        self.writer = Writer(database, self.publish)
        # Staging takes longer, and must not hold up live samples.
        self.backfill = Writer(database, self.publish, pause_factor=BACKFILL_PAUSE_FACTOR)
        self.usage = Usage(database, max_stored_bytes, max_staged_samples)
        self.watch = Watch(database, bus)
        self.rules = OwnRules(database)
        self._clock = Clock()

    def families(self) -> Iterator[MetricFamily]:
        return writer_families(live=self.writer, backfill=self.backfill)

    async def run(self) -> None:
        """Run the background work until cancelled."""
        works = (
            self.writer.run(),
            self.backfill.run(),
            self.usage.flushes.run(),
            self.watch.run(),
            self.watch.sweep(),
            self.watch.notices.delivery.run(),
        )
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    @answers(RECORD, at_once=MAX_CONCURRENT_RECORDS)
    async def record(self, request: Samples) -> Recorded:
        """Store and publish samples, each once, also if a call is repeated.

        Raises:
            InvalidRequest: too many series, a value that a described metric cannot have, or a
                description without values.
            MonitoringFailed: the account's storage is full.
            RateLimited: too many late samples of the account wait to be merged.
            Unavailable: the database is unavailable; all samples were stored, or none.
        """
        context = current.get()
        content = batch.unpack(request, self._clock, context.account, context.idempotency_key)
        await self.watch.descriptions.check(content, request.descriptions)
        late = bool((content.at < now_us() - MAX_LIVE_AGE_US).any())
        await self.usage.check(context.account, len(content.at), late=late)
        content.series = await self.series.number(context.account, content.pairs)
        if await self.watch.descriptions.store(context.account, request.descriptions):
            await self._publish_change("descriptions")
        writer = self.backfill if late else self.writer
        return Recorded(duplicates=await writer.write(content))

    async def publish(self, batches: list[Batch], arrival: int) -> None:
        """Schedule the evaluation of committed samples, and publish them by time."""
        together: dict[tuple[str, str], batch.Moments] = {}
        for content in batches:
            self.usage.add(content.account, len(content.at))
            self._note(content)
            for model, moments in batch.moments(content):
                merged = together.setdefault((content.account, model), {})
                for at, metrics in moments.items():
                    merged.setdefault(at, {}).update(metrics)
        count = 0
        for (account, model), moments in together.items():
            for at in batch.chosen(moments):
                update = MetricUpdate.model_construct(
                    model_id=model, timestamp=to_text(at), metrics=moments[at], arrival=arrival
                )
                await self.bus.publish(METRICS_RECORDED, update, account, model)
                count += 1
                if count % PUBLISHED_PER_TURN == 0:
                    await asyncio.sleep(0)

    def _note(self, content: Batch) -> None:
        """Schedule the evaluation of samples, unless they are a backfill."""
        live = content.at > now_us() - MAX_LIVE_AGE_US
        if not live.any():
            return
        recent = content.only(live)
        extremes_by_pair = batch.extremes(recent)
        for model, indexes in recent.models.items():
            extremes = {recent.pairs[index][1]: extremes_by_pair[index] for index in indexes}
            self.watch.observe(content.account, model, extremes)

    @answers(STORAGE)
    async def storage(self, _: StorageRequest) -> StorageUse:
        """Return the account's storage use and limits."""
        return await self.usage.read(current.get().account, self.series.max_series)

    @answers(MONITOR, at_once=MAX_CONCURRENT_READS)
    async def monitor(self, request: MonitorRequest) -> Monitoring:
        """Return statistics, plots and advice about a model.

        Raises:
            NotFound: the account has recorded nothing of the model, even if another account has.
        """
        account = current.get().account
        until = datetime.now(UTC)
        since = until - timedelta(days=request.days)
        async with self.series.reading(account, request.model_id, snapshot=True) as (
            connection,
            numbers,
        ):
            wanted = request.metrics or [metric for metric in USUAL_METRICS if metric in numbers]
            shown = dict.fromkeys([*ALWAYS, *wanted])
            read = [m for m in dict.fromkeys([*shown, *USUAL_METRICS]) if m in numbers]
            found = await window.read(connection, [numbers[metric] for metric in read], since)
            latest = await _latest(connection, numbers)
        newest = from_us(max([history.newest for history in found.histories.values()], default=0))
        ahead = newest if newest > until else None
        histories = {metric: found.histories.get(numbers[metric], EMPTY) for metric in read}
        # A year's shapes take tenths of a second, in which other requests must be answered.
        shapes = await asyncio.to_thread(examine, histories, current.get().deadline)
        samples = {}
        if spans := unplaced(histories, shapes):
            async with self.database.connection() as connection:
                around = await window.read_spans(
                    connection, {numbers[metric]: found for metric, found in spans.items()}
                )
            samples = {m: around[numbers[m]] for m in spans if numbers[m] in around}
        changes = find_changes(histories, shapes, samples, to_us(since))
        answer = await asyncio.to_thread(
            _describe, request, shown, wanted, histories, changes, latest,
            Window(since=since, until=ahead or until),
        )  # fmt: skip
        warnings = caveats.warnings_of(request, numbers, read, found, until, ahead)
        warnings += caveats.unexamined(metric for metric in read if metric not in shapes)
        return answer.model_copy(update={"warnings": warnings})

    @answers(READ_SAMPLES, at_once=MAX_CONCURRENT_READS)
    async def read_samples(self, request: SamplesRequest) -> RecordedSamples:
        """Return a page of a metric's samples.

        Raises:
            NotFound: the account has never recorded the metric of the model.
        """
        account = current.get().account
        async with self.series.reading(account, request.model_id) as (connection, known):
            numbers = _numbers(known, request)
            return await reading.read(connection, numbers[0], request)

    @answers(DELETE_SAMPLES)
    async def delete_samples(self, request: SamplesDeletion) -> SamplesDeleted:
        """Delete samples; later answers cover only the remaining ones.

        Raises:
            NotFound: the account has never recorded the metric of the model.
            InvalidRequest: too many samples, or none possible; none is deleted.
        """
        account = current.get().account
        async with self.series.reading(account, request.model_id) as (connection, known):
            numbers = _numbers(known, request)
            count = await deletion.delete(connection, account, numbers, request)
        await self._publish_change("samples", request.model_id)
        log.info("samples deleted", account=account, count=count)
        return SamplesDeleted(deleted=count)

    @listens(METRICS_CHANGED, shared=False)
    async def forget(self, changed: MetricsChanged) -> None:
        """Evict the cached data of an account's metrics that a change made stale."""
        if changed.what in ("samples", None):
            self.usage.forget(changed.account)
        if changed.what in ("descriptions", None):
            self.watch.descriptions.forget(changed.account)
        if changed.what in ("samples", "rules", None):
            self.watch.baselines.forget(changed.account, changed.model_id)

    def forget_all(self) -> None:
        """Evict the cached data of all accounts, since changes may have been missed."""
        self.usage.forget_all()
        self.watch.descriptions.forget_all()
        self.watch.baselines.expire_all()

    async def _publish_change(self, what: Change, model: str | None = None) -> None:
        """Evict stale data of the caller's metrics, in this and all other replicas."""
        account = current.get().account
        changed = MetricsChanged(account=account, what=what, model_id=model)
        await self.forget(changed)
        try:
            await self.bus.publish(METRICS_CHANGED, changed, account, "metrics")
        except Exception:
            # The change is committed; an error would make the caller repeat it.
            log.exception("change not published", account=account)

    @answers(HISTORY, at_once=MAX_CONCURRENT_READS)
    async def history(self, request: HistoryRequest) -> History:
        """Return the arrival and time of each sample that a listener missed."""
        account = current.get().account
        async with self.series.reading(account, request.model_id) as (connection, numbers):
            return await history.find(connection, numbers, request)

    @answers(RECALL, at_once=MAX_CONCURRENT_READS)
    async def recall(self, request: RecallRequest) -> Recalled:
        """Return the values of samples that a listener missed, as events."""
        account = current.get().account
        async with self.series.reading(account, request.model_id) as (connection, numbers):
            return await history.recall(connection, numbers, request)

    @answers(LIST_ALERTS)
    async def list_alerts(self, request: AlertsRequest) -> Alerts:
        return await incidents.list_alerts(self.database, current.get().account, request)

    @answers(LIST_MODELS)
    async def list_models(self, request: ModelsSelection) -> RecordedModels:
        return await self.series.models(current.get().account, request)

    @answers(LIST_RULES)
    async def list_rules(self, _: RulesRequest) -> Rules:
        return await self.rules.all(current.get().account)

    @answers(ADD_RULE)
    async def add_rule(self, request: NewRule) -> Rule:
        added = await self.rules.add(current.get().account, request)
        if added.kind == "change":  # the only kind that compares with baselines
            await self._publish_change("rules", added.model_id)
        return added

    @answers(CHANGE_RULE)
    async def change_rule(self, request: ChangeRequest) -> Rule:
        return await self.rules.change(current.get().account, request)

    @answers(REMOVE_RULE)
    async def remove_rule(self, request: RuleRequest) -> RuleRemoved:
        return await self.rules.remove(current.get().account, request)


def _numbers(known: Mapping[str, int], request: SamplesRequest | SamplesDeletion) -> list[int]:
    """Return the series numbers of the requested metric, or of all metrics of the model."""
    if request.metric is None:
        return list(known.values())
    if request.metric not in known:
        raise NotFound(f"{request.metric} was never recorded for this model; check `metric`")
    return [known[request.metric]]


async def _latest(connection: Connection, numbers: Mapping[str, int]) -> dict[str, float]:
    """Read the newest values that advice needs, regardless of the window."""
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
    changes: Mapping[str, Changes],
    latest: Mapping[str, float],
    window_: Window,
) -> Monitoring:
    return Monitoring.model_construct(
        statistics={
            ALWAYS.get(metric, metric): summarise(
                metric, histories.get(metric, EMPTY), changes.get(metric)
            )
            for metric in shown
        },
        plots={
            metric: draw(
                metric, histories.get(metric, EMPTY), request.plot_format, changes.get(metric)
            )
            for metric in wanted
        },
        recommendations=recommend(changes, histories, latest, datetime.now(UTC)),
        findings=[finding for one in changes.values() for finding in one.findings()],
        window=window_,
    )
