"""SetFit models: a sentence model, and a classifier of its vectors that scikit-learn pickled.

The classifier is small, so that all of it is read, by the reader that the module's image is built
with: a module is made only if that finds nothing but a logistic regression.
"""

from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from common.errors import ModelRefused
from generator.reasons import refuse
from generator.templates.inference.heads import UnreadableHead, read_head
from generator.weights import Weights
from models.dtypes import MIB
from models.tasks.sentences import HEAD, SETFIT, SETTINGS

# A thousand classes of vectors with a thousand numbers take 8 MB.
MAX_HEAD_BYTES = 16 * MIB
DTYPES = {"<f4": "F32", "<f8": "F64"}


class Settings(BaseModel):
    """The fields of config_setfit.json that answers depend on; only SetFitABSA has the last one."""

    labels: list[str | int | float] | None = None
    normalize_embeddings: bool = False
    span_context: int | None = None


class Head(BaseModel):
    """A logistic regression: its classes, the length of its vectors, and its numbers by dtype."""

    numbered: int | None  # the largest class, if they are numbers
    width: int
    elements: dict[str, int]


def read_settings(content: bytes) -> Settings:
    """Parse config_setfit.json. Raises ModelRefused for settings that modules do not support."""
    try:
        settings = Settings.model_validate(orjson.loads(content))
    except (ValueError, ValidationError):
        raise ModelRefused(f"{SETTINGS} cannot be read", reason="config") from None
    if settings.span_context is not None:
        raise refuse(
            "the model is a half of a SetFitABSA model, whose aspects spaCy finds",
            "architecture",
            "a SetFit model of whole texts",
        )
    return settings


def read_model_head(content: bytes) -> Head:
    """Read a pickled head without running it. Raises ModelRefused for an unsupported one."""
    try:
        head = read_head(content)
    except UnreadableHead as error:
        raise refuse(
            f"the model's {HEAD} is not a plain logistic regression ({error}), and no other pickle "
            "is read",
            "pickle-only",
            "a model whose head is scikit-learn's LogisticRegression, SetFit's default, with one "
            "label per text",
        ) from None
    classes = head["classes"]
    elements: dict[str, int] = {}
    for name in ("coef", "intercept"):
        array = head[name]
        kind = DTYPES[array.dtype]
        elements[kind] = elements.get(kind, 0) + len(array.data) // int(array.dtype[2:])
    numbered = max(classes) if isinstance(classes[0], int) else None
    if isinstance(classes[0], int) and min(classes) < 0:
        numbered = 2**63  # no list of labels has a place for it
    return Head(numbered=numbered, width=head["coef"].shape[1], elements=elements)


def facts(head: Head, settings: Settings) -> dict[str, Any]:
    """Return the cached facts about a SetFit model. Raises ModelRefused if it lacks labels."""
    labels = settings.labels
    if labels and head.numbered is not None and head.numbered >= len(labels):
        raise ModelRefused(f"{SETTINGS} has fewer labels than the model's head", reason="config")
    return {"width": head.width}


def weights_of(head: Head) -> Weights:
    size = sum(count * (4 if kind == "F32" else 8) for kind, count in head.elements.items())
    return Weights(head.elements, size, frozenset())


def check(kinds: frozenset[str], config: dict[str, Any]) -> None:
    """Raise ModelRefused for a SetFit model without one of its parts."""
    if SETFIT in kinds and SETFIT not in config:
        raise refuse(
            f"the SetFit model lacks {HEAD}, or the modules.json of its sentence model",
            "incomplete",
            "a copy that SetFit itself saved",
        )
