"""The commands `monitor`, `record`, `watch` and `alerts`."""

import math
from itertools import islice
from typing import Annotated, Any

import typer

from lilypad_client.cli import chart
from lilypad_client.cli.session import Session, command
from lilypad_client.cli.terminal import table

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Id or address of the model, or its own name.")
]
Metric = Annotated[list[str] | None, typer.Option(help="Only these metrics. Repeatable.")]

app = typer.Typer(rich_markup_mode=None)


@command(app)
def monitor(
    session: Session,
    model: Model,
    days: Annotated[int, typer.Option(min=1, max=365)] = 30,
    metric: Metric = None,
) -> None:
    """Summarise a model's last days: statistics, plots, advice."""
    fields: dict[str, Any] = {"days": days, "plot_format": "series"}
    if metric:
        fields["metrics"] = list(metric)
    answer = session.client.get_metrics(model, **fields)
    data = answer.to_dict()

    def draw(out: Any) -> None:
        statistics = data["statistics"]
        shown = {name: values for name, values in statistics.items() if values}
        rows = [
            [name, values.get("count"), values.get("mean"), values.get("p95"), values.get("trend")]
            for name, values in shown.items()
        ]
        titles = ("metric", "count", "mean", "p95", "trend")
        justify = ("left", "right", "right", "right", "left")
        table(out, dict(zip(titles, justify, strict=True)), rows)
        for name, plot in data["plots"].items():
            for line in chart.lines(name, chart.values(plot), out.width):
                out.print(line)
        for line in data["recommendations"]:
            out.print(f"- {line}", soft_wrap=True)

    session.terminal.show(data, draw)


@command(app)
def record(
    session: Session,
    model: Model,
    metrics: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Such as latency=8.3.")
    ],
    timestamp: Annotated[str | None, typer.Option(help="RFC 3339; by default now.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Your own key, so that a repeated call records once.")
    ] = None,
) -> None:
    """Record metric values of one moment."""
    recorded = session.client.metrics.record(
        model,
        dict(_pair(text) for text in metrics),
        timestamp=timestamp,
        idempotency_key=idempotency_key,
    )
    session.terminal.show(recorded.to_dict(), lambda out: out.print("Recorded."))


@command(app)
def watch(
    session: Session,
    model: Model,
    metric: Metric = None,
    since: Annotated[str | None, typer.Option(help="Time or cursor to start from.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Exit after this many updates.")] = None,
) -> None:
    """Follow a model live until Ctrl-C. With JSON output, print one update per line."""
    updates = session.client.subscribe_metrics(model, metric or None, since=since)
    counted = islice(updates, count)
    if session.terminal.json:
        for update in counted:
            session.terminal.print_json(update.to_dict())
        return
    from lilypad_client.cli.live import Picture  # noqa: PLC0415  (only a person sees it)

    with Picture(model) as picture:
        for update in counted:
            picture.add(update)


@command(app)
def alerts(
    session: Session,
    model: Annotated[str | None, typer.Option(help="Only alerts of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    *,
    open_only: Annotated[bool, typer.Option("--open", help="Only open alerts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow new alerts until Ctrl-C.")] = False,
    count: Annotated[
        int | None, typer.Option(min=1, help="Exit --watch after this many alerts.")
    ] = None,
) -> None:
    """List alerts, newest first, or follow them live."""
    terminal = session.terminal
    if watch:
        for alert in islice(session.client.watch_alerts(model), count):
            data, row = alert.to_dict(), _row(alert)
            terminal.show(data, lambda out, row=row: out.print(*row, soft_wrap=True))  # type: ignore[misc]
        return
    listed = session.client.alerts.list(
        model_id=model, open_only=open_only, page_size=min(limit, 100)
    )
    shown = list(islice(listed, limit))
    columns = dict.fromkeys(("raised", "recovered", "severity", "model", "message"), "left")
    data = {"alerts": [alert.to_dict() for alert in shown]}
    terminal.show(data, lambda out: table(out, columns, [_row(alert) for alert in shown]))


def _row(alert: Any) -> list[Any]:
    recovered = f"{alert.recovered_at:%Y-%m-%d %H:%M}" if alert.recovered_at else "open"
    raised = f"{alert.raised_at:%Y-%m-%d %H:%M}"
    return [raised, recovered, alert.severity, alert.model_id, alert.message]


def _pair(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not separator or not math.isfinite(number):
        raise typer.BadParameter(f"NAME=VALUE, such as latency=8.3; got {text!r}")
    return name, number
