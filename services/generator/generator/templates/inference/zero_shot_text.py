"""Scores of the caller's labels for a text."""

from typing import Any

from generator.templates.inference.labels import split_labels
from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {sequence, labels, scores} per text; the best label is first."""
    check_texts(inputs)
    # The text and a label share the model's limit, so a label gets half of it.
    room = bound_tokens(pipeline, manifest) // 2
    sentence = "This example is {}."
    labels = split_labels(pipeline.tokenizer, parameters.pop("candidate_labels"), sentence, room)
    return call(pipeline, manifest, inputs, candidate_labels=labels, **parameters)
