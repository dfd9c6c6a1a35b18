"""Bound on the tokens that a pipeline reads."""

from typing import Any


def bound_tokens(pipeline: Any, manifest: dict[str, Any]) -> int:
    """Limit the tokenizer to the module's longest input; return the limit."""
    tokenizer = pipeline.tokenizer
    max_tokens = min(tokenizer.model_max_length, manifest["run"]["maxTokens"])
    tokenizer.model_max_length = max_tokens
    return int(max_tokens)
