"""Routes that read samples and usage, and delete wrong samples."""

from collections.abc import Iterator
from urllib.parse import urlencode

from common.bus import Bus
from common.contracts.reading import (
    DELETE_SAMPLES,
    READ_SAMPLES,
    RecordedSamples,
    SamplesDeleted,
    SamplesDeletion,
    SamplesRequest,
)
from gateway import answer, audit
from gateway.door import Guards
from gateway.endpoint import Answer, Call, Route, always
from gateway.usage import Usage, UsageRequest

CSV = "text/csv"


class SampleRoutes:
    """Routes that read samples as they were recorded, and delete wrong ones."""

    tag = "Monitoring"

    def __init__(self, bus: Bus, guards: Guards) -> None:
        self.bus = bus
        self.guards = guards

    @Route(
        "GET",
        "/monitor/samples",
        summary="Read samples",
        allows="monitor:read",
        query=SamplesRequest,
        reply=RecordedSamples,
        errors=(404,),
        csv=True,
        kind=lambda _: "monitor",
        harmless=always,
    )
    async def list_samples(self, call: Call, query: SamplesRequest) -> bytes | Answer:
        """Return the samples of one metric of a model exactly as they were recorded.

        With `Accept: text/csv` or `format=csv` the answer is CSV, a column each for time,
        metric and value, and the next page is in the header `Link`.
        """
        if not _wants_csv(call, query):
            return await self.bus.pass_on(READ_SAMPLES, query)
        page = await self.bus.call(READ_SAMPLES, query)
        headers = {"Vary": "Accept"}
        if page.next is not None:
            parameters = query.model_dump(mode="json", by_alias=True, exclude_none=True)
            following = urlencode({**parameters, "format": "csv", "cursor": page.next})
            address = f"/{call.version}/api/monitor/samples?{following}"
            headers["Link"] = f'<{address}>; rel="next"'
        return Answer("".join(_lines(page)).encode(), CSV, headers=headers)

    @Route(
        "DELETE",
        "/monitor/samples",
        summary="Delete wrong samples",
        allows="monitor:write",
        query=SamplesDeletion,
        reply=SamplesDeleted,
        errors=(404,),
    )
    async def delete_samples(self, call: Call, query: SamplesDeletion) -> SamplesDeleted:
        """Delete samples of a model: of one metric or all, from `from` until before `to`.

        After the answer, all statistics, plots and rules cover only the remaining
        samples. At most 500,000 samples are deleted in a call; with more, none is.
        """
        database, caller = self.guards.accounts.database, call.caller
        details = query.model_dump(mode="json", by_alias=True, exclude_none=True)
        row = await audit.begin(
            database, "samples_deleted", call.account, key=caller and caller.key, **details
        )
        answer = await self.bus.call(DELETE_SAMPLES, query)
        await audit.complete(database, row, deleted=answer.deleted)
        return answer


class UsageRoutes:
    """Routes of the usage of the account's keys."""

    tag = "Accounts and keys"

    def __init__(self, guards: Guards) -> None:
        self.guards = guards

    @Route(
        "GET",
        "/usage",
        summary="List requests by key and day",
        allows="monitor:read",
        query=UsageRequest,
        reply=Usage,
    )
    async def list_usage(self, call: Call, query: UsageRequest) -> Usage:
        """Return requests by key, day and kind, the newest day first; some seconds behind."""
        return await self.guards.usage.page(call.account, query)


def _wants_csv(call: Call, query: SamplesRequest) -> bool:
    """Whether CSV is requested: by `format`, else by `Accept`."""
    if query.format is not None:
        return query.format == "csv"
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    return answer.preferred(accept, {CSV, "application/json", "*/*"}) == CSV


def _lines(page: RecordedSamples) -> Iterator[str]:
    yield "timestamp,metric,value\r\n"
    for sample in page.samples:
        timestamp = sample.timestamp.isoformat().replace("+00:00", "Z")
        yield f"{timestamp},{page.metric},{sample.value!r}\r\n"
