"""Boxes of the caller's labels in an image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.labels import split_labels
from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {label, score, box} per image."""
    room = bound_tokens(pipeline, manifest)
    labels = split_labels(pipeline.tokenizer, parameters.pop("candidate_labels"), "{}", room)
    # The pipeline takes the image and the labels together.
    images = [read_image(value) for value in inputs]
    return [pipeline(image, candidate_labels=labels, **parameters) for image in images]
