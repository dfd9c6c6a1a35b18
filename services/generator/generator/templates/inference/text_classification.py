"""The labels of a text, or of a pair of texts."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call
from generator.templates.inference.strings import check_text
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {label, score} per text, best first."""
    pair = parameters["text_pair"]
    check_texts(inputs)
    if pair is not None:
        check_text("text_pair", pair)
    compares = any(one["name"] == "text_pair" and one["required"] for one in manifest["inputs"])
    if pair is None and compares:
        raise InvalidInput("text_pair: is missing; this model compares two texts")
    bound_tokens(pipeline, manifest)
    count = parameters["top_k"] or pipeline.model.config.num_labels
    texts = inputs if pair is None else [{"text": text, "text_pair": pair} for text in inputs]
    return call(pipeline, manifest, texts, truncation=True, top_k=count)
