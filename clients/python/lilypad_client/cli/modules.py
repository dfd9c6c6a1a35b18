"""The commands `generate`, `download`, `verify` and `generations`."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lilypad_client.cli.session import Session, command
from lilypad_client.cli.terminal import table

if TYPE_CHECKING:
    from lilypad_client.modules import Module

Url = Annotated[
    str, typer.Argument(metavar="URL", help="https://huggingface.co/OWNER/NAME, or the id.")
]
BatchSize = Annotated[int | None, typer.Option(help="Inputs that the module processes at once.")]
Memory = Annotated[str | None, typer.Option(help="Main memory of the container, such as 8GB.")]
Gpu = Annotated[
    bool | None, typer.Option("--gpu/--no-gpu", help="Whether the module requests a GPU.")
]
Level = Annotated[Literal["none", "basic", "full"] | None, typer.Option()]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]
Accept = Annotated[
    list[str] | None,
    typer.Option(help="Accept a reason for refusal: license or too-large. Repeatable."),
]

app = typer.Typer(rich_markup_mode=None)


@command(app)
def generate(
    session: Session,
    model_url: Url,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    *,
    batch_size: BatchSize = None,
    memory: Memory = None,
    gpu: Gpu = None,
    optimization_level: Level = None,
    revision: Revision = None,
    accept: Accept = None,
) -> None:
    """Generate the files of a module that runs a model."""
    fields = _fields(batch_size, memory, gpu, optimization_level, revision, accept)
    module = session.client.generate_module(model_url, **fields)
    _show(session, module, output)


@command(app)
def verify(
    session: Session,
    model_url: Url,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    *,
    batch_size: BatchSize = None,
    memory: Memory = None,
    gpu: Gpu = None,
    optimization_level: Level = None,
    revision: Revision = None,
    accept: Accept = None,
) -> None:
    """Generate a module and run it on a worker without network access."""
    fields = _fields(batch_size, memory, gpu, optimization_level, revision, accept)
    job = session.client.modules.start_verification(model_url, **fields)
    with session.terminal.progress(f"verify {job.id}") as update:
        for module in job.progress():
            assert module.verification is not None, "a verification's module says what came of it"
            update(module.verification.state, 0, 0)
    _show(session, job.wait(), output)


@command(app)
def download(
    session: Session,
    model_url: Url,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; with --extract a folder.")
    ] = None,
    *,
    extract: Annotated[bool, typer.Option("--extract", help="Extract the archive.")] = False,
    batch_size: BatchSize = None,
    memory: Memory = None,
    gpu: Gpu = None,
    optimization_level: Level = None,
    revision: Revision = None,
    accept: Accept = None,
) -> None:
    """Download the module as a zip; a file is written only if its digest is correct."""
    name = model_url.rstrip("/").rpartition("/")[2]
    target = output or Path(name if extract else f"{name}.zip")
    fields = _fields(batch_size, memory, gpu, optimization_level, revision, accept)
    written = session.client.download(model_url, target, extract=extract, **fields)
    session.terminal.show(
        {"path": str(written)}, lambda out: out.print(f"Wrote {written}.", soft_wrap=True)
    )


@command(app)
def generations(session: Session, limit: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """List generated modules, newest first, each with its request."""
    listed = list(islice(session.client.modules.list(page_size=min(limit, 100)), limit))
    columns = dict.fromkeys(("id", "kind", "model", "commit", "task", "created"), "left")
    rows = [
        [
            generation.id,
            generation.kind,
            generation.model_id,
            generation.commit[:12],
            generation.task,
            f"{generation.created_at:%F %H:%M}",
        ]
        for generation in listed
    ]
    data = {"generations": [generation.to_dict() for generation in listed]}
    session.terminal.show(data, lambda out: table(out, columns, rows))


def _fields(
    batch_size: int | None,
    memory: str | None,
    gpu: bool | None,
    optimization_level: str | None,
    revision: str | None,
    accept: list[str] | None,
) -> dict[str, Any]:
    options = {"batchSize": batch_size, "memory": memory, "gpu": gpu}
    options["optimizationLevel"] = optimization_level
    chosen = {name: value for name, value in options.items() if value is not None}
    fields: dict[str, Any] = {"options": chosen} if chosen else {}
    if revision:
        fields["revision"] = revision
    if accept:
        fields["accept"] = list(accept)
    return fields


def _show(session: Session, module: "Module", output: Path | None) -> None:
    folder = str(module.write_to(output)) if output else None
    answer = module.to_dict()
    # Files that were written need not be read twice.
    data = {**answer, "files": sorted(module), "folder": folder} if folder else answer

    def draw(out: Any) -> None:
        model = module.model
        out.print(f"{model.id} at {model.commit[:12]}, {model.task}: {module.validation.status}")
        if module.verification is not None:
            out.print(f"verification: {module.verification.state}")
        for line in module.validation.errors:
            out.print(f"  {line}")
        out.print(f"{len(module)} files in {folder}" if folder else "write them with: -o DIR")

    session.terminal.show(data, draw)
