"""Pages of models in use: live metrics, statistics, advice, alerts and their rules."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from common.contracts.alerts import Alert, AlertsRequest, NewRule, RuleChange
from common.contracts.monitoring import (
    LIST_MODELS,
    ModelsSelection,
    Monitoring,
    MonitorRequest,
    RecordedModel,
)
from common.contracts.recording import ModelId
from common.errors import InvalidRequest, NotFound, ServiceError
from gateway.keyring import KeyRing
from gateway.pages import plots, site
from gateway.pages.acknowledgements import Acknowledgements
from gateway.pages.page import Page
from gateway.pages.visit import Visit, to
from gateway.pages.visits import Visits

PAGE = "/dashboard/models"
WINDOWS = {"hour": 1, "day": 1, "week": 7, "month": 30, "quarter": 90, "year": 365}
WINDOW = "day"
MAX_METRICS = 16
MAX_ALERTS = 20
MODELS_PER_PAGE = 50
# Models in one answer of the metrics service.
MAX_LISTED = 1_000
MODEL: TypeAdapter[str] = TypeAdapter(ModelId)
RULE_NUMBERS = ("above", "below", "percent", "after", "forMinutes")
RULE_FIELDS = ("kind", "metric", *RULE_NUMBERS, "severity")


class ModelPages:
    def __init__(self, visits: Visits, keyring: KeyRing) -> None:
        self.visits = visits
        self.call = visits.operations.call
        self.bus = keyring.bus
        self.acknowledgements = Acknowledgements(visits.guards.accounts.database)

    @Page("GET", PAGE)
    async def show_all(self, visit: Visit) -> Response:
        recorded, (alerts, _) = await asyncio.gather(
            self._list(),
            self.visits.try_to(visit, "list_alerts", AlertsRequest(open_only=True, limit=200)),
        )
        troubled = {alert.model_id for alert in alerts.alerts} if alerts else set()
        find = visit.request.query_params.get("find", "").strip()[:256]
        named = [one for one in recorded if find.casefold() in one.model_id.casefold()]
        # An open alert must not be on the last page.
        named.sort(key=lambda one: one.model_id not in troubled)
        place = _index(visit, "from", MODELS_PER_PAGE)
        place = place if place < len(named) else 0
        return self.visits.show(
            "models.html",
            visit.request,
            count=len(recorded),
            found=len(named),
            shown=named[place : place + MODELS_PER_PAGE],
            place=place,
            per_page=MODELS_PER_PAGE,
            find=find,
            troubled=troubled,
        )

    @Page("GET", PAGE + "/watch")
    async def show(self, visit: Visit) -> Response:
        if site.is_fragment(visit.request):
            return await self._show_statistics(visit)
        return await self._show(visit)

    async def _show_statistics(self, visit: Visit) -> Response:
        """Show only the statistics and the advice, to refresh an open page."""
        monitoring = await self._read(visit)
        return self.visits.show(
            "statistics.html",
            visit.request,
            model=_model(visit),
            window=_window(visit),
            place=_place(visit),
            monitoring=monitoring,
            scale_of=plots.scale_of,
            titles=plots.titles(monitoring) if monitoring else {},
        )

    @Page("GET", PAGE + "/series")
    async def show_series(self, visit: Visit) -> Response:
        """Return the charts' columns, for a page that polls or catches up on updates."""
        monitoring, window = await self._read(visit), _window(visit)
        if monitoring and window == "hour":
            await plots.refine(self.bus, _model(visit), monitoring)
        charts = plots.charts(monitoring, window) if monitoring else []
        content = orjson.dumps({"charts": charts, "at": datetime.now(UTC)})
        return Response(content, 200, site.HEADERS, "application/json")

    @Page("GET", PAGE + "/alerts")
    async def show_alerts(self, visit: Visit, error: ServiceError | None = None) -> Response:
        """Show only the alerts and rules, below the error of a change to one of them."""
        model = _model(visit)
        return self.visits.show(
            "alerts.html",
            visit.request,
            error,
            model=model,
            window=_window(visit),
            changed="",
            alone=True,
            **await self._alerts(visit, model),
        )

    @Page("POST", PAGE + "/alerts/{alert}/acknowledge")
    async def acknowledge(self, visit: Visit) -> Response:
        model, alert = _model(visit), visit.id("alert")
        if alert not in {listed.id for listed in await self._list_alerts(visit, model)}:
            return await self._changed(visit, NotFound("no such alert among the model's newest"))
        await self.acknowledgements.add(visit.account, alert)
        return await self._changed(visit)

    @Page("POST", PAGE + "/rules")
    async def add_rule(self, visit: Visit) -> Response:
        try:
            fields: dict[str, Any] = {"kind": visit.field("kind"), **_rule_fields(visit)}
            if metric := visit.field("metric").strip():
                fields["metric"] = metric
            rule = NewRule.model_validate({**fields, "modelId": _model(visit)})
            await self.call(visit, "add_rule", rule)
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error)
        return await self._changed(visit)

    @Page("POST", PAGE + "/rules/{rule}/change")
    async def change_rule(self, visit: Visit) -> Response:
        try:
            fields = _rule_fields(visit)
            if muted := visit.field("muted"):
                fields = {"muted": muted == "on"}
            else:
                # An emptied bound is removed; the other bound stays.
                emptied = [name for name in ("above", "below") if visit.fields.get(name) == [""]]
                fields.update(dict.fromkeys(emptied))
            change = RuleChange.model_validate(fields)
            await self.call(visit, "change_rule", change, rule_id=visit.id("rule"))
        except ServiceError as error:
            if site.is_fragment(visit.request):
                return await self._changed(visit, error)
            return await self._show(visit, error, changed=visit.id("rule"))
        except ValidationError as error:
            return await self._show(visit, error, changed=visit.id("rule"))
        return await self._changed(visit)

    @Page("POST", PAGE + "/rules/{rule}/remove")
    async def remove_rule(self, visit: Visit) -> Response:
        try:
            await self.call(visit, "remove_rule", rule_id=visit.id("rule"))
        except ServiceError as error:
            return await self._changed(visit, error)
        return await self._changed(visit)

    async def _changed(self, visit: Visit, error: ServiceError | None = None) -> Response:
        if site.is_fragment(visit.request):
            return await self.show_alerts(visit, error)
        if error is not None:
            raise error
        address = urlencode({"model": _model(visit), "window": _window(visit)})
        return to(f"{PAGE}/watch?{address}#rules")

    async def _show(
        self,
        visit: Visit,
        error: ServiceError | ValidationError | None = None,
        changed: str = "",
    ) -> Response:
        """Show the model; `changed` is the rule whose change was refused with `error`."""
        model, window, place = _model(visit), _window(visit), _place(visit)
        metrics = await self._metrics(model)
        shown = metrics[place : place + MAX_METRICS]
        monitoring, alerts = await asyncio.gather(
            self._monitor(visit, model, window, shown), self._alerts(visit, model)
        )
        return self.visits.show(
            "model.html",
            visit.request,
            error,
            model=model,
            window=window,
            changed=changed,
            alone=False,
            # The page comes first, and asks for the hour's samples then: they take longer.
            coarse=bool(monitoring and window == "hour" and plots.coarse(monitoring)),
            windows=list(WINDOWS),
            monitoring=monitoring,
            scale_of=plots.scale_of,
            titles=plots.titles(monitoring) if monitoring else {},
            place=place,
            # The index of the first metric of each page, and the metrics of the other pages.
            places=list(range(0, len(metrics), MAX_METRICS)),
            elsewhere=[metric for metric in metrics if metric not in shown],
            per_page=MAX_METRICS,
            metrics=metrics,
            charts=plots.charts(monitoring, window) if monitoring else [],
            now=datetime.now(UTC),
            **alerts,
        )

    async def _list(self) -> list[RecordedModel]:
        """Return all models of the account, the most recently recorded first."""
        models: list[RecordedModel] = []
        before = None
        while True:
            request = ModelsSelection(limit=MAX_LISTED, before=before)
            page = await self.bus.call(LIST_MODELS, request)
            models += page.models
            before = page.next
            if before is None:
                return models

    async def _metrics(self, model: str) -> list[str]:
        """Return the metrics of the model, the usual ones first; none if it was never recorded."""
        request = ModelsSelection(limit=MAX_LISTED, model_id=model)
        listed = await self.bus.call(LIST_MODELS, request)
        recorded = (known.metrics for known in listed.models if known.model_id == model)
        return sorted(next(recorded, []), key=plots.rank)

    async def _read(self, visit: Visit) -> Monitoring | None:
        """Return the monitoring of the metrics that the page shows."""
        model, window, place = _model(visit), _window(visit), _place(visit)
        metrics = (await self._metrics(model))[place : place + MAX_METRICS]
        return await self._monitor(visit, model, window, metrics)

    async def _monitor(
        self, visit: Visit, model: str, window: str, metrics: list[str]
    ) -> Monitoring | None:
        """Return the monitoring of these metrics; None if nothing was recorded for the model."""
        request = MonitorRequest(
            model_id=model, days=WINDOWS[window], metrics=metrics or None, plot_format="series"
        )
        try:
            monitoring: Monitoring = await self.call(visit, "monitor", request)
        except NotFound:
            return None
        return monitoring

    async def _alerts(self, visit: Visit, model: str) -> dict[str, Any]:
        alerts, listed = await asyncio.gather(
            self._list_alerts(visit, model), self.call(visit, "list_rules")
        )
        return {
            "typed": {name: visit.field(name)[:256] for name in RULE_FIELDS},
            "blank": dict.fromkeys(RULE_FIELDS, ""),
            "rule_fields": RULE_FIELDS,
            "alerts": alerts,
            "acknowledged": await self.acknowledgements.find(
                visit.account, [alert.id for alert in alerts]
            ),
            "rules": [rule for rule in listed.rules if rule.model_id in (None, model)],
        }

    async def _list_alerts(self, visit: Visit, model: str) -> list[Alert]:
        request = AlertsRequest(model_id=model, limit=MAX_ALERTS)
        alerts: list[Alert] = (await self.call(visit, "list_alerts", request)).alerts
        return alerts


def _model(visit: Visit) -> str:
    """Return the model's id, which may hold anything but control characters."""
    id = visit.field("model") or visit.request.query_params.get("model", "")
    try:
        return MODEL.validate_python(id)
    except ValidationError:
        raise InvalidRequest("name a model, in at most 256 characters") from None


def _window(visit: Visit) -> str:
    window = visit.field("window") or visit.request.query_params.get("window", WINDOW)
    return window if window in WINDOWS else WINDOW


def _place(visit: Visit) -> int:
    """Return the index of the first metric that the page shows."""
    return _index(visit, "metrics", MAX_METRICS)


def _index(visit: Visit, name: str, per_page: int) -> int:
    """Return the index of the first entry of the page that a parameter names."""
    text = visit.request.query_params.get(name, "")
    place = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return place - place % per_page


def _rule_fields(visit: Visit) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in RULE_NUMBERS:
        text = visit.field(name).strip()
        try:
            if text:
                fields[name] = float(text) if name in ("above", "below", "percent") else int(text)
        except ValueError:
            fault = {"path": name, "message": "must be a number, such as 250"}
            raise InvalidRequest(f"{name}: must be a number", fields=[fault]) from None
    if severity := visit.field("severity"):
        fields["severity"] = severity
    return fields
