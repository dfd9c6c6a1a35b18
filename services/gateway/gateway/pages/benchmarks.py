"""Pages that start, follow, compare, export and publish benchmark runs."""

import asyncio
import contextlib
import re
import secrets
from typing import Any, get_args

from fastapi import Request
from fastapi.responses import Response
from pydantic import ValidationError

from common import context
from common.contracts import address
from common.contracts.benchmarking import (
    OVER,
    QUOTE,
    Attention,
    BenchmarkRequest,
    QuoteRequest,
    Run,
    RunsRequest,
)
from common.contracts.figures import Device, Dtype
from common.errors import InvalidModel, InvalidRequest, NotFound, ServiceError
from gateway import audit
from gateway.keyring import KeyRing
from gateway.pages import report, site, wording
from gateway.pages.page import Page
from gateway.pages.publications import Publications
from gateway.pages.visit import Visit, to
from gateway.pages.visits import Visits
from gateway.tenants import set_tenant

PAGE = "/dashboard/benchmarks"
SHOWN = 20
MAX_COMPARED = len(report.LETTERS)
RUN = re.compile(r"bench_[0-9a-f]{8,64}")
# A page that embeds a badge shows a withdrawn run for up to five more minutes.
BADGE_CACHE = "public, max-age=300"
CHOICES = {
    "device": ("", *get_args(Device)),
    "dtype": ("", *get_args(Dtype)),
    "attention": ("", *get_args(Attention)),
}
NUMBERS = ("iterations", "warmup", "inputTokens", "newTokens", "latencyBudgetMs", "pricePerHour")
FIELDS = ("modelId", "batchSizes", "revision", "compile", *CHOICES, *NUMBERS)


class BenchmarkPages:
    def __init__(self, visits: Visits, keyring: KeyRing) -> None:
        self.visits = visits
        self.call = visits.operations.call
        self.bus = keyring.bus
        self.publications = Publications(visits.guards.accounts.database)

    @Page("GET", PAGE)
    async def show_all(self, visit: Visit) -> Response:
        query = visit.request.query_params
        form = {**_form(visit), "modelId": query.get("model", "")[:512]}
        return await self._show_all(visit, form, before=query.get("before"))

    @Page("GET", PAGE + "/quote")
    async def quote(self, visit: Visit) -> Response:
        query = visit.request.query_params
        form = {name: query.get(name, "")[:512] for name in ("modelId", "device")}
        return self.visits.show("quote.html", visit.request, **await self._quote(form))

    @Page("POST", PAGE)
    async def start(self, visit: Visit) -> Response:
        form = _form(visit)
        try:
            run_request = BenchmarkRequest.model_validate(_request(visit))
            once = self.visits.operations.once
            run = await once(visit, visit.field("number"), "benchmark", run_request)
        except (ServiceError, ValidationError) as error:
            return await self._show_all(visit, form, error)
        return to(f"{PAGE}/{run.id}")

    @Page("GET", PAGE + "/compare")
    async def compare(self, visit: Visit) -> Response:
        ids = list(dict.fromkeys(visit.request.query_params.getlist("run")))
        if not 2 <= len(ids) <= MAX_COMPARED or not all(RUN.fullmatch(id) for id in ids):
            error = InvalidRequest(f"choose 2 to {MAX_COMPARED} runs from the list")
            return await self._show_all(visit, _form(visit), error)
        runs = await asyncio.gather(*(self.call(visit, "get_benchmark", id=id) for id in ids))
        return self.visits.show(
            "compare.html",
            visit.request,
            id_length=report.MAX_ID,
            runs=list(zip(report.LETTERS, runs, strict=False)),
            rows=report.compare([*report.LETTERS], runs),
            differences=report.differences(runs),
            charts=report.charts(list(zip(report.names(runs), runs, strict=True))),
        )

    @Page("GET", PAGE + "/{id}")
    async def show(self, visit: Visit) -> Response:
        run = await self._find(visit)
        name = "progress.html" if site.is_fragment(visit.request) else "run.html"
        public = await self.publications.owner(run.id) is not None
        return self.visits.show(name, visit.request, **_described(run), public=public)

    @Page("POST", PAGE + "/{id}/cancel")
    async def cancel(self, visit: Visit) -> Response:
        run = await self.call(visit, "cancel_benchmark", id=visit.id("id"))
        return to(f"{PAGE}/{run.id}")

    @Page("GET", PAGE + "/{id}/export.{format:str}")
    async def export(self, visit: Visit) -> Response:
        run = await self._find(visit)
        if visit.request.path_params["format"] == "csv":
            return _file(report.to_csv(run), f"{run.id}.csv", "text/csv; charset=utf-8")
        text = run.model_dump_json(by_alias=True, indent=2)
        return _file(text, f"{run.id}.json", "application/json")

    @Page("POST", PAGE + "/{id}/publish")
    async def publish(self, visit: Visit) -> Response:
        run = await self._find(visit)
        if run.state != "succeeded":
            raise InvalidRequest("only a run that succeeded can be made public")
        await self.publications.publish(visit.account, run.id)
        return to(f"{PAGE}/{run.id}#public")

    @Page("POST", PAGE + "/{id}/withdraw")
    async def withdraw(self, visit: Visit) -> Response:
        run = await self._find(visit)
        await self.publications.withdraw(visit.account, run.id)
        return to(f"{PAGE}/{run.id}")

    @Page("GET", "/runs/{id}", public=True)
    async def show_public(self, request: Request) -> Response:
        run = await self._find_public(request)
        return self.visits.show("public_run.html", request, **_described(run))

    @Page("GET", "/runs/{id}/badge.svg", public=True)
    async def show_badge(self, request: Request) -> Response:
        run = await self._find_public(request)
        headers = {"Cache-Control": BADGE_CACHE}
        return Response(report.badge(run), 200, headers, "image/svg+xml")

    async def _find(self, visit: Visit) -> Run:
        run: Run = await self.call(visit, "get_benchmark", id=visit.id("id"))
        return run

    async def _find_public(self, request: Request) -> Run:
        """Find a public run; raise the same NotFound for a private run and a missing one."""
        standings = await self.visits.guards.limits.admit(audit.network(), ["api"])
        request.state.standings = standings
        id = request.path_params["id"]
        owner = await self.publications.owner(id) if RUN.fullmatch(id) else None
        if owner is None:
            raise NotFound("no public run at this address")
        run: Run = await self.visits.call_as(owner, request, "get_benchmark", id=id)
        return run

    async def _show_all(
        self,
        visit: Visit,
        form: dict[str, Any],
        error: ServiceError | ValidationError | None = None,
        before: str | None = None,
    ) -> Response:
        position = before if before and RUN.fullmatch(before) else None
        list_request = RunsRequest(limit=SHOWN, before=position)
        (runs, runs_error), quote = await asyncio.gather(
            self.visits.try_to(visit, "list_benchmarks", list_request), self._quote(form)
        )
        return self.visits.show(
            "benchmarks.html",
            visit.request,
            error,
            form=form,
            fields=FIELDS,
            choices=CHOICES,
            number=secrets.token_hex(16),
            runs=[(run, report.figures(run)) for run in runs.runs] if runs else [],
            next=runs.next if runs else None,
            chosen=visit.request.query_params.getlist("run"),
            runs_error=runs_error,
            **quote,
        )

    async def _quote(self, form: dict[str, Any]) -> dict[str, Any]:
        """Return the quote for a run of the form's model, or why there is none."""
        # PostgreSQL's text cannot contain a NUL.
        model = form["modelId"].replace("\0", "").strip()
        with contextlib.suppress(InvalidModel):
            model = address.parse(model).id
        device = form["device"] if form["device"] in CHOICES["device"] else ""
        quote_request = QuoteRequest(model_id=model, device=device or "auto")
        try:
            await set_tenant(self.visits.guards.accounts.database, context.current.get().account)
            quote = await self.bus.call(QUOTE, quote_request)
        except ServiceError as error:
            return {
                "quote": None,
                "price": None,
                "unquoted": wording.sentence(error.message),
                "quoted": model,
            }
        price = report.price(quote.last)
        return {"quote": quote, "price": price, "unquoted": "", "quoted": model}


def _form(visit: Visit) -> dict[str, Any]:
    """Return the submitted fields, to fill the form again."""
    form: dict[str, Any] = {name: visit.field(name)[:512] for name in FIELDS}
    return {**form, "opened": any(form[name] for name in FIELDS if name not in FIELDS[:2])}


def _described(run: Run) -> dict[str, Any]:
    best = run.analysis.optimal_batch_size if run.analysis else None
    rows = report.rows(run)
    return {
        "run": run,
        "over": OVER,
        "rows": rows,
        "best": next((row for row in rows if row.size == best), None),
        "stages": report.stages(run),
        "charts": report.charts([(run.model_id, run)]),
    }


def _file(text: str, name: str, media_type: str) -> Response:
    headers = {**site.HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, 200, headers, media_type)


def _request(visit: Visit) -> dict[str, Any]:
    """Return the form as a request; empty fields are not sent."""
    body: dict[str, Any] = {"modelId": visit.field("modelId").strip()}
    if sizes := re.findall(r"[^\s,;]+", visit.field("batchSizes")):
        body["batchSizes"] = [_number(size) for size in sizes]
    for name in NUMBERS:
        if text := visit.field(name).strip():
            body[name] = _number(text)
    for name in ("revision", *CHOICES):
        if text := visit.field(name).strip():
            body[name] = text
    if visit.field("compile") == "on":
        body["compile"] = True
    return body


def _number(text: str) -> int | float | str:
    """Parse a number; return other text unchanged, for validation to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
