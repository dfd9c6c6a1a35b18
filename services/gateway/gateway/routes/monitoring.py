"""What models do in use: recorded, summarised, watched."""

from common.bus import Bus
from common.contracts.monitoring import (
    ADD_RULE,
    LIST_ALERTS,
    LIST_RULES,
    MONITOR,
    MOST_SAMPLES,
    RECORD,
    REMOVE_RULE,
    Alerts,
    AlertsRequest,
    Monitoring,
    MonitorRequest,
    NewRule,
    Nothing,
    Record,
    Recorded,
    Records,
    Rule,
    RuleRequest,
    Rules,
    Samples,
)
from common.errors import InvalidRequest
from gateway.endpoint import FEW_BYTES, Call, Endpoint

# 10,000 records of a few hundred bytes. As columns they are one message on the bus.
MOST_BATCH_BYTES = 5_000_000
# Of model ids and metric names, which are sent once each; the columns take up to 830,000 bytes.
MOST_NAME_BYTES = 150_000


def endpoints(bus: Bus) -> list[Endpoint]:
    async def record(_: Call, body: Record) -> bytes:
        """Store what was measured at one moment.

        200 means that it is committed, and in the next answer of `/monitor`.
        The same model, time and metric again counts once.
        """
        return await bus.pass_on(RECORD, Samples.from_records([body]))

    async def record_many(_: Call, body: Records) -> bytes:
        """Store up to 10,000 records, with 50,000 values in all; either all of them or none."""
        return await bus.pass_on(RECORD, _as_columns(body))

    async def monitor(_: Call, body: MonitorRequest) -> bytes:
        """Statistics, plots and advice about the last days of a model.

        `statistics` has `throughput`, `latency` and `costs`, and the other
        metrics that were asked for; what was not recorded in the window is
        null. Mean, total and count are exact, and p95 within 1 % where
        `exact` is false. `plots` keep the least and the greatest sample of
        what they draw as one point, and say how many samples it was.
        """
        return await bus.pass_on(MONITOR, body)

    async def list_alerts(_: Call, query: AlertsRequest) -> bytes:
        """Alerts, newest first."""
        return await bus.pass_on(LIST_ALERTS, query)

    async def list_rules(_: Call, __: None) -> bytes:
        """When alerts are raised: the default rules, which need no set-up, and one's own."""
        return await bus.pass_on(LIST_RULES, Nothing())

    async def add_rule(_: Call, body: NewRule) -> bytes:
        """A rule of the account's own: a threshold, a change against the usual, or silence."""
        return await bus.pass_on(ADD_RULE, body)

    async def remove_rule(call: Call, _: None) -> None:
        """The rule raises no more alerts, and those that it has open are over."""
        await bus.call(REMOVE_RULE, RuleRequest(id=call.path_parameter("rule_id")))

    tag = "Monitoring"
    return [
        Endpoint(
            method="POST",
            path="/monitor/record",
            handler=record,
            allows="monitor:write",
            body=Record,
            reply=Recorded,
            idempotent=True,
            summary="Record metrics",
            tag=tag,
            versions=("v1",),
        ),
        Endpoint(
            method="POST",
            path="/monitor/record",
            handler=record_many,
            allows="monitor:write",
            body=Records,
            most_bytes=MOST_BATCH_BYTES,
            reply=Recorded,
            idempotent=True,
            summary="Record metrics, many at once",
            tag=tag,
            versions=("v2",),
        ),
        Endpoint(
            method="POST",
            path="/monitor",
            handler=monitor,
            allows="monitor:read",
            body=MonitorRequest,
            reply=Monitoring,
            errors=(404,),
            summary="See how a model does",
            tag=tag,
        ),
        Endpoint(
            method="GET",
            path="/alerts",
            handler=list_alerts,
            allows="monitor:read",
            reply=Alerts,
            query=AlertsRequest,
            summary="List alerts",
            tag=tag,
        ),
        Endpoint(
            method="GET",
            path="/alerts/rules",
            handler=list_rules,
            allows="monitor:read",
            reply=Rules,
            summary="List the rules of alerts",
            tag=tag,
        ),
        Endpoint(
            method="POST",
            path="/alerts/rules",
            handler=add_rule,
            allows="monitor:write",
            body=NewRule,
            most_bytes=FEW_BYTES,
            reply=Rule,
            status=201,
            summary="Add a rule",
            tag=tag,
        ),
        Endpoint(
            method="DELETE",
            path="/alerts/rules/{rule_id}",
            handler=remove_rule,
            allows="monitor:write",
            status=204,
            errors=(404,),
            summary="Remove a rule",
            tag=tag,
        ),
    ]


def _as_columns(body: Records) -> Samples:
    """Raises InvalidRequest for more than one message on the bus carries."""
    values = sum(len(record.metrics) for record in body.records)
    if values > MOST_SAMPLES:
        raise InvalidRequest(
            f"records: {values} values in all; send at most {MOST_SAMPLES} in a call",
            limit=MOST_SAMPLES,
        )
    samples = Samples.from_records(body.records)
    names = sum(len(name.encode()) + 3 for name in (*samples.models, *samples.metrics))
    if names > MOST_NAME_BYTES:
        raise InvalidRequest(
            f"records: the different model ids and metric names take {names} bytes;"
            f" send at most {MOST_NAME_BYTES} in a call",
            limit=MOST_NAME_BYTES,
        )
    return samples
