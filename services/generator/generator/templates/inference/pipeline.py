"""Calls of a `transformers.pipeline` on several inputs."""

from typing import Any

from generator.templates.inference.padding import pads


def call(pipeline: Any, manifest: dict[str, Any], inputs: list[Any], **options: Any) -> list[Any]:
    """Return one answer per input; options of None are omitted."""
    options = {name: value for name, value in options.items() if value is not None}
    if len(inputs) > 1 and (pipeline.tokenizer is None or pads(pipeline.tokenizer, pipeline.model)):
        return list(pipeline(inputs, batch_size=manifest["run"]["batchSize"], **options))
    return [pipeline(value, **options) for value in inputs]
