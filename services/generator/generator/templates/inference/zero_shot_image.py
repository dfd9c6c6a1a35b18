"""Scores of the caller's labels for an image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.labels import split_labels
from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {label, score} per image, best first."""
    room = bound_tokens(pipeline, manifest)
    sentence = "This is a photo of {}."
    labels = split_labels(pipeline.tokenizer, parameters.pop("candidate_labels"), sentence, room)
    images = [read_image(value) for value in inputs]
    return call(pipeline, manifest, images, candidate_labels=labels, **parameters)
