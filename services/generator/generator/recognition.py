"""Recognition of a model's task by its files and architecture; the card breaks ties."""

from typing import Any

from common.errors import ModelRefused
from generator.layout import VECTORS
from generator.reasons import refuse
from generator.snapshot import Snapshot
from models.origins import FOREIGN, instead_of, tag_of_class
from models.tables import architectures, table
from models.tags import OTHERWISE, RENAMED, TAGS, refusal_of
from models.tasks import LIBRARIES, Task, rows_of
from models.tasks.llama import LIBRARY
from models.tasks.sentences import CLASSIFIES, DENSE_TAGS, EMBEDS, RANKINGS, SETFIT, SPARSE

CARD = f"a copy of the model whose card has a pipeline_tag of the Hub, such as {TAGS[0]}"


def named_tag(snapshot: Snapshot) -> str | None:
    """Return the card's or the Hub's pipeline tag. Raises ModelRefused if it is never served."""
    description = snapshot.description
    if description.disabled:
        raise ModelRefused("the Hub has disabled this model", reason="disabled")
    info = description.transformers_info
    name = description.pipeline_tag or (info.pipeline_tag if info else None)
    name = RENAMED.get(name, name) if name else None
    if name and (refusal := refusal_of(name)):
        raise refuse(f"no module is made for {name}: {refusal.reason}", "task", refusal.help)
    return name


def task_of(snapshot: Snapshot) -> str:
    """Return the tag of the row that serves the model. Raises ModelRefused if none does."""
    name = named_tag(snapshot)
    if SETFIT in snapshot.config:
        return CLASSIFIES[0]  # whatever the card says of its sentence model
    if snapshot.layout.is_generative_ranker:
        return RANKINGS[0]  # one score per text serves no other task
    if snapshot.layout.encoder == "SparseEncoder" and (name is None or name in DENSE_TAGS):
        return SPARSE
    if name is None and not VECTORS.isdisjoint(snapshot.layout.classes.values()):
        return EMBEDS  # one vector per text serves no other task
    if name and rows_of(name):
        return _served_by_architecture(snapshot, name)
    if inferred := tag_of_class(snapshot.config, headless=name is None):
        return inferred
    if name is None:
        raise refuse("neither the card nor config.json names the model's task", "task", CARD)
    raise refuse("the model's pipeline_tag is not a task of the Hub", "task", CARD)


def _served_by_architecture(snapshot: Snapshot, name: str) -> str:
    """Return the tag, or the one that fits the model's architecture better."""
    if (pipeline := snapshot.layout.pipeline) and pipeline not in _pipelines(name):
        return next((tag for tag in LIBRARIES["diffusers"] if pipeline in _pipelines(tag)), name)
    kind = snapshot.config.get("model_type")
    if name in CLASSIFIES and snapshot.config.get("num_labels") == 1:
        return RANKINGS[0] if snapshot.description.is_ranker else name
    if name in OTHERWISE and kind not in architectures().get(name, ()):
        for other in OTHERWISE[name]:
            if kind in architectures().get(other, ()):
                return other
    return name


def _pipelines(tag: str) -> tuple[str, ...]:
    """Return the diffusers pipelines that a tag's modules run."""
    row = LIBRARIES["diffusers"].get(tag)
    return row.classes if row else ()


def check_library(snapshot: Snapshot) -> None:
    """Raise ModelRefused for a model of a library that modules do not install."""
    named = snapshot.description.library_name
    kind = snapshot.config.get("model_type")
    if named in FOREIGN and (snapshot.weights is None or kind not in table()["configs"]):
        raise refuse(
            f"the model is for {named}, which modules do not install",
            "library",
            _original(snapshot) or instead_of(named, snapshot.description.pipeline_tag),
        )


def _original(snapshot: Snapshot) -> str | None:
    return (
        f"{snapshot.description.base}, from which it was made"
        if snapshot.description.base
        else None
    )


def library_of(snapshot: Snapshot, task: str) -> str:
    """Return the library that loads the model, by its layout or else by the Hub's name for it."""
    rows = _rows(task)
    library = SETFIT if SETFIT in snapshot.config else _library(snapshot, task)
    if library in rows:
        return str(library)
    named = snapshot.description.library_name
    shown = f"the model is for {named}" if named in FOREIGN else "the model is for another library"
    raise refuse(
        f"{shown}; {task} modules run {' and '.join(sorted(rows))}",
        "library",
        instead_of(named, task),
    )


def _library(snapshot: Snapshot, task: str) -> str | None:
    rows = _rows(task)
    laid_out, config = snapshot.layout.library, snapshot.config
    named = snapshot.description.library_name
    # The index of a layout identifies its library: only diffusers and sentence-transformers
    # write one.
    if laid_out and task in LIBRARIES[laid_out]:
        return laid_out
    if laid_out == "diffusers":
        return laid_out
    if named in rows and laid_out is None:
        return named
    if "architecture" in config and "model_type" not in config and "timm" in rows:
        return "timm"
    # Whatever the card says: models published for vllm or nemo often have transformers' files.
    if _is_of_transformers(config, task) and "transformers" in rows:
        return "transformers"
    return named


def _rows(tag: str) -> dict[str, Task]:
    """Return the rows of a tag, but for that of GGUF files (`gguf_models`)."""
    return {name: row for name, row in rows_of(tag).items() if name != LIBRARY}


def _is_of_transformers(config: dict[str, Any], task: str) -> bool:
    return config.get("model_type") in architectures().get(task, ())
