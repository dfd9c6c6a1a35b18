"""The last hidden state of a text."""

from typing import Any

from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of vectors per text, one per token."""
    check_texts(inputs)
    bound_tokens(pipeline, manifest)
    return call(pipeline, manifest, inputs, truncation=True, **parameters)
