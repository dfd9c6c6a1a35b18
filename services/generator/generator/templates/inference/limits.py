"""Bounds the tokens that a pipeline reads."""

from typing import Any


def bound_tokens(pipeline: Any, manifest: dict[str, Any]) -> int:
    """Limit the tokenizer to the model's tokens: some name no limit, and fail beyond it."""
    tokenizer = pipeline.tokenizer
    most = min(tokenizer.model_max_length, manifest["run"]["maxTokens"])
    tokenizer.model_max_length = most
    return int(most)
