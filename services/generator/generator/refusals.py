"""Which models no module is made for, and what to beware of in the others.

`check` raises ModelRefused with `details.reason`, one of: gated, disabled, task,
library, adapter, quantized, gguf-only, pickle-only, no-weights, weights,
incomplete, custom-code, config, architecture, too-large.
"""

import json
import re
from functools import cache
from importlib.resources import files

from common.contracts.generation import Check
from common.errors import ModelRefused
from generator.hub_tags import TAGS, refusal_of
from generator.libraries import LIBRARIES, REFUSED, rows_of
from generator.snapshot import Snapshot
from generator.tasks import Task

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
NON_COMMERCIAL = re.compile(r"(?:^|-)(?:nc|noncommercial|non-commercial|research)(?:-|$)")


def check(snapshot: Snapshot) -> tuple[Task, str, list[Check]]:
    """The model's task, its library, and what was looked at. Raises ModelRefused."""
    name = task_of(snapshot)
    check_weights(snapshot)
    library = library_of(snapshot, name)
    task = LIBRARIES[library][name]
    check_architecture(snapshot, task, library)
    return (
        task,
        library,
        [
            Check(name="safety", outcome="passed", message="safetensors weights, no custom code"),
            check_license(snapshot),
            check_access(snapshot),
            check_scan(snapshot),
        ],
    )


def task_of(snapshot: Snapshot) -> str:
    """The pipeline tag, one that is served."""
    description = snapshot.description
    if description.disabled:
        raise ModelRefused("the Hub has disabled this model", reason="disabled")
    info = description.transformers_info
    name = description.pipeline_tag or (info.pipeline_tag if info else None)
    if name is None:
        raise ModelRefused(
            "the model does not say which task it is for (pipeline_tag in its card)", reason="task"
        )
    if refusal := refusal_of(name):
        raise ModelRefused(
            f"no module is made for {name}: {refusal.reason}; what would help: {refusal.help}",
            reason="task",
        )
    if not rows_of(name):
        raise ModelRefused(
            "no module is made for the model's task, which is none of the Hub's; made for: "
            + ", ".join(tag for tag in TAGS if rows_of(tag)),
            reason="task",
        )
    return name


def library_of(snapshot: Snapshot, task: str) -> str:
    """The library that loads the model: as its files are laid out, else as the Hub names it."""
    description = snapshot.description
    guessed = "transformers" if description.transformers_info else None
    named = description.library_name or guessed
    # A pipeline of diffusers is nothing else, and what has modules.json was saved by that library.
    library = snapshot.layout.library or named
    if library == "sentence-transformers" and task not in LIBRARIES[library]:
        library = named
    if library in REFUSED:
        raise ModelRefused(REFUSED[library], reason="library")
    rows = rows_of(task)
    if library not in rows:
        raise ModelRefused(
            f"the model is for another library; {task} modules run {', '.join(sorted(rows))}",
            reason="library",
        )
    return library


def check_weights(snapshot: Snapshot) -> None:
    if snapshot.weights is None:
        if "adapter" in snapshot.kinds:
            message, reason = "the model is an adapter to another model", "adapter"
        elif "gguf" in snapshot.kinds:
            message, reason = (
                "the model has GGUF weights only, which need another runtime",
                "gguf-only",
            )
        elif "pickle" in snapshot.kinds:
            reason = "pickle-only"
            message = (
                "the model has pickled weights only, and loading those can run anyone's code; "
                "use a revision with safetensors weights"
            )
        else:
            message, reason = "the model has no weights that can be loaded", "no-weights"
        raise ModelRefused(message, reason=reason)
    if not snapshot.config:
        raise ModelRefused("the model has no config.json", reason="config")
    shards: dict[str, list[str]] = {}
    for file in snapshot.files:
        if "-of-" in file.path:
            start, _, end = file.path.rpartition("-of-")
            shards.setdefault(start.rpartition("-")[0], []).append(end)
    for ends in shards.values():
        if set(ends) != {f"{len(ends):05d}.safetensors"}:
            raise ModelRefused("some of the model's weight files are missing", reason="incomplete")


def check_architecture(snapshot: Snapshot, task: Task, library: str) -> None:
    if library == "diffusers":
        if snapshot.layout.pipeline not in task.classes:
            raise ModelRefused(
                f"{task.name} modules do not run this pipeline; they run {', '.join(task.classes)}",
                reason="architecture",
            )
        return
    if library == "sentence-transformers":
        # What it is made for: its own Auto class is the library's business.
        if snapshot.config.get("model_type") not in sentence_architectures():
            raise ModelRefused(
                f"the library that modules run has no such architecture for {task.name}",
                reason="architecture",
            )
        return
    if snapshot.config.get("model_type") not in architectures()[task.name]:
        raise ModelRefused(
            f"the library that modules run has no such architecture for {task.name}",
            reason="architecture",
        )
    if not task.classes:
        return
    named = snapshot.config.get("architectures")
    if not isinstance(named, list) or not any(
        isinstance(name, str) and name.endswith(task.classes) for name in named
    ):
        raise ModelRefused(
            f"the model's architecture is not one for {task.name}, though its card says so",
            reason="architecture",
        )


def sentence_architectures() -> list[str]:
    """Any encoder that the pinned transformers loads."""
    return architectures()["feature-extraction"]


@cache
def architectures() -> dict[str, list[str]]:
    """The values of `model_type` that the pinned library loads, by task."""
    text = (files("generator") / "templates" / "architectures.json").read_text(encoding="utf-8")
    known: dict[str, list[str]] = json.loads(text)
    return known


def license_of(snapshot: Snapshot) -> str | None:
    """The licence's identifier. Free text is never handed on: only what looks like one."""
    said = snapshot.description.license
    return said if said and LICENSE.fullmatch(said) else None


def check_license(snapshot: Snapshot) -> Check:
    named = license_of(snapshot)
    if named is None:
        message = "the model names no licence: ask its owner before you use it"
    elif named in {"other", "unknown"}:
        message = "the model has a licence of its own: read it before you use it"
    elif NON_COMMERCIAL.search(named):
        message = f"the licence {named} forbids commercial use"
    else:
        return Check(name="license", outcome="passed", message=named)
    return Check(name="license", outcome="warning", message=message)


def check_access(snapshot: Snapshot) -> Check:
    if snapshot.description.gated or snapshot.description.private:
        return Check(
            name="access",
            outcome="warning",
            message="the model is gated or private: building the image needs a token with access",
        )
    return Check(name="access", outcome="passed", message="public")


def check_scan(snapshot: Snapshot) -> Check:
    """What the Hub's own scanners say: information, since they can be deceived."""
    found = snapshot.description.unsafe_files
    if found:
        return Check(
            name="scan",
            outcome="warning",
            message=f"the Hub's scanners report {found} unsafe files; "
            "the module uses none but those that its module.yaml lists",
        )
    return Check(name="scan", outcome="passed", message="the Hub's scanners report nothing")
