"""Calls a `transformers.pipeline` on several inputs."""

from typing import Any


def call(pipeline: Any, manifest: dict[str, Any], inputs: list[Any], **options: Any) -> list[Any]:
    """Return one answer per input; an argument of None is left to the library."""
    options = {name: value for name, value in options.items() if value is not None}
    # Texts of different lengths can share a batch only with a padding token.
    pads = pipeline.tokenizer is None or pipeline.tokenizer.pad_token_id is not None
    if len(inputs) > 1 and pads:
        return list(pipeline(inputs, batch_size=manifest["run"]["batchSize"], **options))
    return [pipeline(value, **options) for value in inputs]
