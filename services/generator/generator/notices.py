"""Checks that warn about a model that is served: access, conversion, the Hub's scanners."""

import re

from common.contracts.generation import Check
from generator.snapshot import Snapshot
from models.tables import table
from models.tasks import Task
from models.tasks.sentences import HEAD

# Files that the warning about a conversion names.
MAX_SHOWN = 6


def check_access(snapshot: Snapshot) -> Check:
    read = [snapshot, *([snapshot.adapter] if snapshot.adapter else [])]
    if any(model.description.is_closed for model in read):
        return Check(
            name="access",
            outcome="warning",
            message="the model is gated or private: building the image needs a token with access",
        )
    return Check(name="access", outcome="passed", message="public")


def check_conversion(snapshot: Snapshot) -> list[Check]:
    """Warn if the branch's weights are pickled, and the module has a conversion of them."""
    if snapshot.is_pickled:
        message = setfit_message(snapshot) or (
            "the model has pickled weights only: they are converted to safetensors when the image "
            "is built, without a network, by torch.load(weights_only=True)"
        )
        return [Check(name="conversion", outcome="warning", message=message)]
    if snapshot.conversion is None:
        return []
    message = (
        "the branch has pickled weights only; the module has those of the Hub's own conversion to "
        f"safetensors (refs/pr/{snapshot.conversion}), pinned to its commit"
    )
    if snapshot.differing:
        shown = ", ".join(snapshot.differing[:MAX_SHOWN])
        more = len(snapshot.differing) - MAX_SHOWN
        shown += f" and {more} more" if more > 0 else ""
        message += f", where {shown} differ from the branch's"
    return [Check(name="conversion", outcome="warning", message=message)]


def check_label_names(snapshot: Snapshot, task: Task) -> list[Check]:
    """Warn if config.json numbers a classifier's labels, in place of naming them."""
    labels = snapshot.config.get("labels")
    if task.head_tag not in table()["labels"] or not labels:
        return []
    if not all(re.fullmatch(r"LABEL_[0-9]+", str(label)) for label in labels):
        return []
    message = (
        f"config.json does not name the model's labels: answers say {labels[0]} and so on, and its "
        "card may say what they mean"
    )
    return [Check(name="labels", outcome="warning", message=message)]


def setfit_message(snapshot: Snapshot) -> str | None:
    """Describe the conversion of a SetFit model's head; None if other weights are pickled too."""
    if [file.path for file in snapshot.files if file.becomes] != [HEAD]:
        return None
    return (
        f"{HEAD} is a pickle of scikit-learn: its numbers are converted to safetensors when the "
        "image is built, without a network, by a reader that runs nothing of it"
    )


def check_scan(snapshot: Snapshot) -> Check:
    """Report the verdict of the Hub's scanners: information only, since they can be deceived."""
    unsafe = snapshot.description.unsafe_files
    if unsafe:
        return Check(
            name="scan",
            outcome="warning",
            message=f"the Hub's scanners report {unsafe} unsafe files; "
            "the module uses none but those that its module.yaml lists",
        )
    return Check(name="scan", outcome="passed", message="the Hub's scanners report nothing")
