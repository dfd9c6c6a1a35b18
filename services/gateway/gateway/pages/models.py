"""Models in use as pages: live metrics, statistics, advice, alerts and their rules."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from common.contracts.alerts import Alert, AlertsRequest, NewRule, RuleChange
from common.contracts.monitoring import (
    LIST_MODELS,
    ModelsRequest,
    Monitoring,
    MonitorRequest,
    RecordedModel,
)
from common.contracts.recording import USUAL_METRICS, ModelId
from common.errors import InvalidRequest, NotFound, ServiceError
from gateway.keyring import KeyRing
from gateway.pages import site
from gateway.pages.acknowledgements import Acknowledgements
from gateway.pages.visit import Visit, to
from gateway.pages.visits import Visits

PAGE = "/dashboard/models"
WINDOWS = {"hour": 1, "day": 1, "week": 7, "month": 30, "quarter": 90, "year": 365}
WINDOW = "day"
MAX_METRICS = 16
MAX_ALERTS = 20
MODEL: TypeAdapter[str] = TypeAdapter(ModelId)
RULE_NUMBERS = ("above", "below", "percent", "after", "forMinutes")
RULE_FIELDS = ("kind", "metric", *RULE_NUMBERS, "severity")


class ModelPages:
    def __init__(self, visits: Visits, keyring: KeyRing) -> None:
        self.visits = visits
        self.call = visits.operations.call
        self.bus = keyring.bus
        self.acknowledgements = Acknowledgements(visits.guards.accounts.database)

    async def show_all(self, visit: Visit) -> Response:
        recorded, (alerts, _) = await asyncio.gather(
            self._list(),
            self.visits.try_to(visit, "list_alerts", AlertsRequest(open_only=True, limit=200)),
        )
        troubled = {alert.model_id for alert in alerts.alerts} if alerts else set()
        return self.visits.show("models.html", visit.request, models=recorded, troubled=troubled)

    async def show(self, visit: Visit) -> Response:
        return await self._show(visit)

    async def show_series(self, visit: Visit) -> Response:
        """Answer a page without a socket with the charts' columns."""
        model, window = _model(visit), _window(visit)
        monitoring = await self._monitor(visit, model, window)
        charts = _charts(monitoring, window) if monitoring else []
        content = orjson.dumps({"charts": charts, "at": datetime.now(UTC)})
        return Response(content, 200, site.HEADERS, "application/json")

    async def show_alerts(self, visit: Visit) -> Response:
        model = _model(visit)
        values = await self._alerts(visit, model)
        return self.visits.show("alerts.html", visit.request, model=model, **values)

    async def acknowledge(self, visit: Visit) -> Response:
        model, alert = _model(visit), visit.id("alert")
        if alert not in {listed.id for listed in await self._list_alerts(visit, model)}:
            raise NotFound("no such alert among the model's newest")
        await self.acknowledgements.add(visit.account, alert)
        return await self._changed(visit)

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

    async def change_rule(self, visit: Visit) -> Response:
        try:
            fields = _rule_fields(visit)
            if muted := visit.field("muted"):
                fields = {"muted": muted == "on"}
            change = RuleChange.model_validate(fields)
            await self.call(visit, "change_rule", change, rule_id=visit.id("rule"))
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error)
        return await self._changed(visit)

    async def remove_rule(self, visit: Visit) -> Response:
        await self.call(visit, "remove_rule", rule_id=visit.id("rule"))
        return await self._changed(visit)

    async def _changed(self, visit: Visit) -> Response:
        if site.is_fragment(visit.request):
            return await self.show_alerts(visit)
        return to(f"{PAGE}/watch?{urlencode({'model': _model(visit)})}")

    async def _show(
        self, visit: Visit, error: ServiceError | ValidationError | None = None
    ) -> Response:
        model, window = _model(visit), _window(visit)
        monitoring, alerts = await asyncio.gather(
            self._monitor(visit, model, window), self._alerts(visit, model)
        )
        return self.visits.show(
            "model.html",
            visit.request,
            error,
            model=model,
            window=window,
            windows=list(WINDOWS),
            monitoring=monitoring,
            charts=_charts(monitoring, window) if monitoring else [],
            now=datetime.now(UTC),
            **alerts,
        )

    async def _list(self) -> list[RecordedModel]:
        models: list[RecordedModel] = (
            await self.bus.call(LIST_MODELS, ModelsRequest(limit=1_000))
        ).models
        return models

    async def _monitor(self, visit: Visit, model: str, window: str) -> Monitoring | None:
        """Return every metric of the model; None if nothing was recorded for it yet."""
        listed = await self._list()
        metrics = next((known.metrics for known in listed if known.model_id == model), None)
        request = MonitorRequest(
            model_id=model,
            days=WINDOWS[window],
            metrics=metrics[:MAX_METRICS] if metrics else None,
            plot_format="series",
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


def add(app: FastAPI, visits: Visits, keyring: KeyRing) -> None:
    pages = ModelPages(visits, keyring)
    visits.add(app, "GET", PAGE, pages.show_all)
    visits.add(app, "GET", PAGE + "/watch", pages.show)
    visits.add(app, "GET", PAGE + "/series", pages.show_series)
    visits.add(app, "GET", PAGE + "/alerts", pages.show_alerts)
    visits.add(app, "POST", PAGE + "/alerts/{alert}/acknowledge", pages.acknowledge)
    visits.add(app, "POST", PAGE + "/rules", pages.add_rule)
    visits.add(app, "POST", PAGE + "/rules/{rule}/change", pages.change_rule)
    visits.add(app, "POST", PAGE + "/rules/{rule}/remove", pages.remove_rule)


def _model(visit: Visit) -> str:
    """Return the model's id, which may hold anything but control characters."""
    id = visit.field("model") or visit.request.query_params.get("model", "")
    try:
        return MODEL.validate_python(id)
    except ValidationError:
        raise InvalidRequest("model: give the id of a model") from None


def _window(visit: Visit) -> str:
    window = visit.request.query_params.get("window", WINDOW)
    return window if window in WINDOWS else WINDOW


def _caption(plot: dict[str, Any], skipped: int, shown: int) -> str:
    if plot["pointsIn"] == plot["pointsOut"]:
        return f"{shown:,} sample{'s' if shown > 1 else ''}"
    # How many samples the points of an hour have is unknown: they are a day's.
    samples = "" if skipped else f"{plot['pointsIn']:,} samples in "
    return f"{samples}{shown:,} points: mean, least and greatest"


def _rank(plot: tuple[str, Any]) -> tuple[int, str]:
    """Usual metrics first, throughput before latency; the others by name."""
    name = plot[0]
    usual = USUAL_METRICS.index(name) if name in USUAL_METRICS else len(USUAL_METRICS)
    return usual, name


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


def _charts(monitoring: Monitoring, window: str) -> list[dict[str, Any]]:
    """Return the plots' columns as the charts take them; times in seconds since 1970."""
    since = datetime.now(UTC) - timedelta(hours=1) if window == "hour" else None
    drawn = []
    for metric, plot in sorted(monitoring.plots.items(), key=_rank):
        if not plot:
            continue
        columns = plot["columns"]
        times = [datetime.fromisoformat(time) for time in columns["time"]]
        first = 0 if since is None else sum(time < since for time in times)
        if first == len(times):
            continue
        series = {
            "name": metric,
            "value": columns["mean"][first:],
            "low": columns["minimum"][first:],
            "high": columns["maximum"][first:],
        }
        drawn.append(
            {
                "metric": metric,
                "title": plot["title"],
                "unit": plot["unit"] or "",
                "time": True,
                "x": [time.timestamp() for time in times[first:]],
                "series": [series],
                "caption": _caption(plot, first, len(times) - first),
            }
        )
    return drawn
