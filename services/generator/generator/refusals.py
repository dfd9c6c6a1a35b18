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
from generator.snapshot import Snapshot
from generator.tasks import FAMILIES, TASKS, Task

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
NON_COMMERCIAL = re.compile(r"(?:^|-)(?:nc|noncommercial|non-commercial|research)(?:-|$)")


def check(snapshot: Snapshot) -> tuple[Task, list[Check]]:
    """The model's task, and what was looked at. Raises ModelRefused."""
    task = task_of(snapshot)
    check_weights(snapshot)
    check_library(snapshot, task)
    check_architecture(snapshot, task)
    return task, [
        Check(name="safety", outcome="passed", message="safetensors weights, no custom code"),
        check_license(snapshot),
        check_access(snapshot),
        check_scan(snapshot),
    ]


def task_of(snapshot: Snapshot) -> Task:
    description = snapshot.description
    if description.disabled:
        raise ModelRefused("the Hub has disabled this model", reason="disabled")
    info = description.transformers_info
    name = description.pipeline_tag or (info.pipeline_tag if info else None)
    if name is None:
        raise ModelRefused(
            "the model does not say which task it is for (pipeline_tag in its card)", reason="task"
        )
    if name not in TASKS:
        raise ModelRefused(
            "no module is made for the model's task yet; made for: " + ", ".join(sorted(TASKS)),
            reason="task",
        )
    return TASKS[name]


def check_library(snapshot: Snapshot, task: Task) -> None:
    description, libraries = snapshot.description, FAMILIES[task.family].libraries
    guessed = "transformers" if description.transformers_info else None
    if (description.library_name or guessed) not in libraries:
        raise ModelRefused(
            f"the model is for another library; {task.name} modules run {', '.join(libraries)}",
            reason="library",
        )


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
    shards = [file.path for file in snapshot.files if "-of-" in file.path]
    expected = {path.rsplit("-of-")[-1] for path in shards}
    if shards and expected != {f"{len(shards):05d}.safetensors"}:
        raise ModelRefused("some of the model's weight files are missing", reason="incomplete")


def check_architecture(snapshot: Snapshot, task: Task) -> None:
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
