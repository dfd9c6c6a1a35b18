"""The commands `models` and `samples`."""

import csv
import sys
from itertools import islice
from typing import Annotated, Any

import typer

from lilypad_client.cli.session import Session, command
from lilypad_client.cli.terminal import table

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Id or address of the model, or its own name.")
]
From = Annotated[
    str | None, typer.Option("--from", help="First time, RFC 3339; by default the oldest.")
]
To = Annotated[
    str | None, typer.Option("--to", help="Time before which to end; by default no end.")
]

app = typer.Typer(rich_markup_mode=None)
samples = typer.Typer(help="Read samples as they were recorded, or delete wrong ones.")
app.add_typer(samples, name="samples")


@command(app)
def models(session: Session, limit: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """List models that were recorded or measured, newest first, with their metrics."""
    listed = list(islice(session.client.metrics.models(page_size=min(limit, 100)), limit))
    columns = dict.fromkeys(("model", "metrics"), "left")
    rows = [[model.model_id, " ".join(model.metrics)] for model in listed]
    data = {"models": [model.to_dict() for model in listed]}
    session.terminal.show(data, lambda out: table(out, columns, rows))


@command(samples, "list")
def list_samples(
    session: Session,
    model: Model,
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="Such as latency.")],
    since: From = None,
    until: To = None,
    limit: Annotated[int | None, typer.Option(min=1, help="By default all.")] = None,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of JSON.")] = False,
) -> None:
    """Print the recorded samples of one metric, oldest first."""
    listed = session.client.metrics.samples(
        model, metric, since=since, until=until, page_size=min(limit or 5000, 5000)
    )
    chosen = islice(listed, limit)
    if as_csv:
        # Printed line by line, since there may be millions, in the format of the API's own CSV.
        writer = csv.writer(sys.stdout)
        writer.writerow(("timestamp", "metric", "value"))
        for sample in chosen:
            data = sample.to_dict()
            writer.writerow((data["timestamp"], metric, repr(sample.value)))
        return
    read = [sample.to_dict() for sample in chosen]
    rows: list[list[Any]] = [[sample["timestamp"], sample["value"]] for sample in read]
    session.terminal.show(
        {"modelId": model, "metric": metric, "samples": read},
        lambda out: table(out, {"timestamp": "left", metric: "right"}, rows),
    )


@command(samples, "delete")
def delete_samples(
    session: Session,
    model: Model,
    metric: Annotated[str | None, typer.Option(help="By default all metrics.")] = None,
    since: From = None,
    until: To = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a model's samples, of one metric or of all metrics. This cannot be undone."""
    session.confirm(f"Delete {metric or 'all'} samples of {model}?", yes=yes)
    deleted = session.client.metrics.delete_samples(model, metric=metric, since=since, until=until)
    session.terminal.show(
        deleted.to_dict(), lambda out: out.print(f"Samples deleted: {deleted.deleted:,}")
    )
