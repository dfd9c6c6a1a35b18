"""Bounds what a pipeline reads."""

from typing import Any


def bound_tokens(pipeline: Any, manifest: dict[str, Any]) -> int:
    """Tokens that the model reads; some tokenizers name no limit, and fail beyond the model's."""
    tokenizer = pipeline.tokenizer
    most = min(tokenizer.model_max_length, manifest["run"]["maxTokens"])
    tokenizer.model_max_length = most
    return int(most)
