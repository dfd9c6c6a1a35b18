"""The commands `benchmark`, `runs` and `compare`."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lilypad_client.cli.session import Session, command
from lilypad_client.cli.terminal import table

if TYPE_CHECKING:
    from lilypad_client import LilypadClient

RESULTS = ("throughput", "latency", "memory_usage", "cost_per_inference")
TITLES = ("samples/s", "ms", "MiB", "USD")

app = typer.Typer(rich_markup_mode=None)


@command(app)
def benchmark(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or address of the model.")],
    batch_sizes: Annotated[
        str | None, typer.Option(help="Such as 1,2,4,8; by default a search.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Timed calls per batch size.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Calls before timing.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option()] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Show the run's progress.")
    ] = True,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="With --no-wait, print the started run and exit."),
    ] = True,
) -> None:
    """Measure a model: throughput, latency, memory and cost at each batch size."""
    fields: dict[str, Any] = {
        "batch_sizes": _sizes(batch_sizes) if batch_sizes else None,
        "iterations": iterations,
        "warmup": warmup,
        "device": device,
        "revision": revision,
    }
    options = {name: value for name, value in fields.items() if value is not None}
    job = session.client.benchmarks.start(model, **options)
    if not wait:
        session.terminal.show(job.latest.to_dict(), lambda out: out.print(job.id))
        return
    session.terminal.note(f"run {job.id}; Ctrl-C leaves it running")
    if watch:
        with session.terminal.progress(f"benchmark {job.id}") as update:
            for run in job.progress():
                update(run.state, run.progress.done, run.progress.total)
    finished = job.wait()
    session.terminal.show(finished.to_dict(), lambda out: _draw(out, [finished]))


@command(app)
def runs(
    session: Session,
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Show this run, with results.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """List the account's runs, newest first, or show one."""
    if id is not None:
        run = session.client.benchmarks.get(id)
        session.terminal.show(run.to_dict(), lambda out: _draw(out, [run]))
        return
    listed = list(islice(session.client.benchmarks.list(page_size=min(limit, 100)), limit))
    columns = dict.fromkeys(("id", "model", "state", "progress", "created"), "left")
    rows = [
        [
            run.id,
            run.model_id,
            run.state,
            f"{run.progress.done}/{run.progress.total}",
            f"{run.created_at:%Y-%m-%d %H:%M}",
        ]
        for run in listed
    ]
    data = {"runs": [run.to_dict() for run in listed]}
    session.terminal.show(data, lambda out: table(out, columns, rows))


@command(app)
def compare(
    session: Session,
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL|ID...", help="Models, or ids of finished runs.")
    ],
) -> None:
    """Compare models by their newest results; models without results are measured now."""
    newest = [_newest(session, name) for name in models]
    data = {"runs": [run.to_dict() for run in newest]}
    session.terminal.show(data, lambda out: _draw(out, newest))


def _newest(session: Session, name: str) -> Any:
    client: LilypadClient = session.client
    if name.startswith("bench_"):
        return client.benchmarks.get(name)
    # The service reads the name, as it does everywhere: it may be an id or any form of an address.
    for run in client.benchmarks.list(model_id=name):
        if run.state == "succeeded":
            return client.benchmarks.get(run.id)
    session.terminal.note(f"measuring {name}, which has no results yet")
    return client.run_benchmark(name)


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--batch-sizes: such as 1,2,4,8; got {text!r}") from None


def _draw(out: Any, runs: list[Any]) -> None:
    rows = []
    for run in runs:
        if run.results is None:
            rows.append([run.model_id, None, None, None, None, None, run.state])
            continue
        best = run.analysis.optimal_batch_size if run.analysis else None
        columns = [getattr(run.results, name) for name in RESULTS]
        for size, *values in zip(run.results.batch_sizes, *columns, strict=True):
            rows.append([run.model_id, size, *values, "best" if size == best else ""])
    titles = ("model", "batch", *TITLES, "")
    table(out, {title: "left" if title in {"model", ""} else "right" for title in titles}, rows)
    if len(runs) == 1 and runs[0].analysis:
        for line in runs[0].analysis.resource_recommendations:
            out.print(f"- {line}")
