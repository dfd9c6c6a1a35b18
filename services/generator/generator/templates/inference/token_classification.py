"""Entities and tags of the words of a text."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of entities per text."""
    check_texts(inputs)
    bound_tokens(pipeline, manifest)
    parted = overlap(pipeline.tokenizer, inputs, parameters["aggregation_strategy"])
    return call(pipeline, manifest, inputs, **parameters, **parted)


def overlap(tokenizer: Any, inputs: list[str], strategy: str) -> dict[str, Any]:
    """Return arguments that split a long text into overlapping parts; {} for a short one."""
    if strategy not in ("none", "simple", "first", "average", "max"):
        raise InvalidInput("aggregation_strategy: must be none, simple, first, average or max")
    max_tokens = tokenizer.model_max_length
    used = max(len(tokenizer(text)["input_ids"]) for text in inputs)
    if used <= max_tokens:
        return {}
    if strategy == "none" or not tokenizer.is_fast:
        raise InvalidInput(
            f"inputs: {used} tokens are more than the {max_tokens} that the model reads at once; "
            "texts are read in parts, if the tokenizer can say where they begin, and "
            "aggregation_strategy is not none"
        )
    return {"stride": max_tokens // 4}
