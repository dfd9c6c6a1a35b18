"""Which models no module is made for, and what to beware of in the others.

`check` raises ModelRefused with `details.reason`, one of: gated, disabled, task,
library, adapter, quantized, gguf-only, pickle-only, no-weights, weights,
incomplete, custom-code, config, architecture, too-large.
"""

import re
from typing import Any

from common.contracts.generation import Check
from common.errors import ModelRefused
from generator.hub_tags import TAGS, refusal_of
from generator.libraries import LIBRARIES, architectures, rows_of, table
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
        pipeline = snapshot.layout.pipeline
        if pipeline not in task.classes:
            # By its name only where it is one of the library's: an owner may write anything.
            shown = pipeline if pipeline in architectures()["diffusers"] else "this pipeline"
            raise ModelRefused(
                f"{task.name} modules do not run {shown}; they run {', '.join(task.classes)}",
                reason="architecture",
            )
        return
    if library == "timm":
        if snapshot.config.get("architecture") not in architectures()["timm"]:
            raise ModelRefused(
                "the timm that modules run has no such architecture", reason="architecture"
            )
        return
    kind = snapshot.config.get("model_type")
    # sentence-transformers loads any encoder: its own class for the task is the library's business.
    known = "feature-extraction" if library == "sentence-transformers" else task.name
    if kind not in architectures()[known]:
        raise ModelRefused(_why_not(task.name, kind), reason="architecture")
    if library == "sentence-transformers":
        return
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


def _why_not(task: str, kind: Any) -> str:
    package = table()["absent"].get(task, {}).get(kind) if isinstance(kind, str) else None
    if package:
        return (
            f"the inputs of this architecture are prepared with {package}, which modules for "
            f"{task} do not install; choose a model of another architecture"
        )
    return f"the library that modules run has no such architecture for {task}"


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
