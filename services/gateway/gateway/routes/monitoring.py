"""Endpoints for recording metrics, reading them back, and alerts."""

from dataclasses import replace

from common.bus import Bus
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
    RuleChange,
    RuleRequest,
    Rules,
    RulesRequest,
)
from common.contracts.monitoring import (
    LIST_MODELS,
    MONITOR,
    ModelsRequest,
    ModelsSelection,
    Monitoring,
    MonitorRequest,
    RecordedModels,
)
from common.contracts.recording import (
    MAX_SAMPLES,
    RECORD,
    STORAGE,
    Record,
    Recorded,
    Records,
    Samples,
    StorageRequest,
    StorageUse,
)
from common.errors import InvalidRequest
from gateway.endpoint import MAX_SMALL_BODY_BYTES, Call, Route, always

# 10,000 records of a few hundred bytes. As columns they fit one message on the bus.
MAX_BATCH_BYTES = 5_000_000
# Max bytes of different model ids and metric names; the columns take up to 830,000 bytes more.
MAX_NAME_BYTES = 150_000
# A record without a time gets the current one: sent again, it would be stored twice.
RECORD_NOW = replace(RECORD, repeatable=False)
# A busy machine does not store 50,000 values in the time of one record, and would take longer if
# they were sent again to another replica.
RECORD_MANY = replace(RECORD, timeout=8.0, repeatable=False)
# A busy machine takes seconds to look for changes in a year of many metrics. Sent again to another
# replica, it would take longer.
MAX_QUICK_DAYS = 31
MONITOR_LONG = replace(MONITOR, timeout=8.0, repeatable=False)


class MonitoringRoutes:
    """Routes that record metrics, read their statistics, and manage alerts and rules."""

    tag = "Monitoring"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    @Route(
        "POST",
        "/monitor/record",
        summary="Record metrics",
        allows="monitor:write",
        body=Record,
        reply=Recorded,
        kind=lambda _: "record",
        versions=("v1",),
        idempotent=True,
    )
    async def record(self, _: Call, body: Record) -> bytes:
        """Record the metrics of one moment.

        200 means that they are committed, and included in the next answer of `/monitor`.
        The same model, time and metric again counts once.
        """
        samples = Samples.from_records([body])
        return await self.bus.pass_on(RECORD if samples.have_times else RECORD_NOW, samples)

    @Route(
        "POST",
        "/monitor/record",
        summary="Record metrics, many at once",
        allows="monitor:write",
        body=Records,
        max_body_bytes=MAX_BATCH_BYTES,
        reply=Recorded,
        kind=lambda _: "record",
        versions=("v2",),
        idempotent=True,
    )
    async def record_many(self, _: Call, body: Records) -> bytes:
        """Record up to 10,000 moments, with 50,000 values in all; either all or none are stored."""
        return await self.bus.pass_on(RECORD_MANY, _as_columns(body))

    @Route(
        "POST",
        "/monitor",
        summary="Summarise a model's metrics",
        allows="monitor:read",
        body=MonitorRequest,
        reply=Monitoring,
        errors=(404,),
        kind=lambda _: "monitor",
        harmless=always,
    )
    async def monitor(self, _: Call, body: MonitorRequest) -> bytes:
        """Return statistics, plots and advice about a model's recent days.

        `statistics` has `throughput`, `latency` and `costs`, and the requested
        metrics; figures of a metric without samples in the window are null.
        Mean, total and count are exact, and p95 within 1 % where `exact` is
        false. A point of a plot that stands for several samples keeps their
        minimum and maximum. `warnings` name the limitations of an answer.
        """
        quick = body.days <= MAX_QUICK_DAYS
        return await self.bus.pass_on(MONITOR if quick else MONITOR_LONG, body)

    @Route(
        "GET",
        "/models",
        summary="List models",
        allows="monitor:read",
        query=ModelsRequest,
        reply=RecordedModels,
    )
    async def list_models(self, _: Call, query: ModelsRequest) -> bytes:
        """List the models that the account recorded or measured, with their metrics.

        The model with the newest metric is first. `/generations` lists generated ones.
        """
        selection = ModelsSelection(limit=query.limit, before=query.before)
        return await self.bus.pass_on(LIST_MODELS, selection)

    @Route(
        "GET",
        "/monitor/storage",
        summary="Get the storage used",
        allows="monitor:read",
        reply=StorageUse,
    )
    async def get_storage(self, _: Call, __: None) -> bytes:
        """Return how much the account has stored, and its limits."""
        return await self.bus.pass_on(STORAGE, StorageRequest())

    @Route(
        "GET",
        "/alerts",
        summary="List alerts",
        allows="monitor:read",
        query=AlertsRequest,
        reply=Alerts,
    )
    async def list_alerts(self, _: Call, query: AlertsRequest) -> bytes:
        """List alerts, newest first."""
        return await self.bus.pass_on(LIST_ALERTS, query)

    @Route(
        "GET",
        "/alerts/rules",
        summary="List the alert rules",
        allows="monitor:read",
        reply=Rules,
    )
    async def list_rules(self, _: Call, __: None) -> bytes:
        """List the default rules of alerts, which need no set-up, and the account's own."""
        return await self.bus.pass_on(LIST_RULES, RulesRequest())

    @Route(
        "POST",
        "/alerts/rules",
        summary="Add a rule",
        allows="monitor:write",
        body=NewRule,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=Rule,
        status=201,
    )
    async def add_rule(self, _: Call, body: NewRule) -> bytes:
        """Add a rule: a threshold, a change against the usual values, or silence."""
        return await self.bus.pass_on(ADD_RULE, body)

    @Route(
        "PATCH",
        "/alerts/rules/{rule_id}",
        summary="Change a rule",
        allows="monitor:write",
        body=RuleChange,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=Rule,
        errors=(404,),
    )
    async def change_rule(self, call: Call, body: RuleChange) -> bytes:
        """Change or mute a rule, even a default one; omitted fields are unchanged."""
        changes = body.model_dump(exclude_unset=True)
        request = ChangeRequest(id=call.path_parameter("rule_id"), changes=changes)
        return await self.bus.pass_on(CHANGE_RULE, request)

    @Route(
        "DELETE",
        "/alerts/rules/{rule_id}",
        summary="Remove a rule",
        allows="monitor:write",
        status=204,
        errors=(404,),
    )
    async def remove_rule(self, call: Call, _: None) -> None:
        """Delete a rule of the account's own, which ends its open alerts."""
        await self.bus.call(REMOVE_RULE, RuleRequest(id=call.path_parameter("rule_id")))


def _as_columns(body: Records) -> Samples:
    """Convert records into columns.

    Raises:
        InvalidRequest: the columns do not fit one message on the bus.
    """
    values = sum(len(record.metrics) for record in body.records)
    if values > MAX_SAMPLES:
        raise InvalidRequest(
            f"records: at most {MAX_SAMPLES} values in a call, got {values}",
            limit=MAX_SAMPLES,
        )
    samples = Samples.from_records(body.records)
    names = sum(len(name.encode()) + 3 for name in (*samples.models, *samples.metrics))
    if names > MAX_NAME_BYTES:
        raise InvalidRequest(
            f"records: at most {MAX_NAME_BYTES} bytes of different model ids and metric names"
            f" in a call, got {names}",
            limit=MAX_NAME_BYTES,
        )
    return samples.model_copy(update={"descriptions": body.descriptions})
