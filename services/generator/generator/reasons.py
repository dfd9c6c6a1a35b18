"""Refusals of a model: the reason as a word and as a sentence, and an alternative."""

from typing import Any

from common.errors import ModelRefused

# Every value that `details.reason` may have; docs/how-to/modules.md explains each.
REASONS = frozenset(
    ("gated", "disabled", "task", "library", "adapter", "quantized", "gguf-only", "pickle-only")
) | {
    *("no-weights", "weights", "incomplete", "custom-code", "config", "architecture"),
    *("license", "too-large", "validation"),
}


def refuse(message: str, reason: str, help: str, **details: Any) -> ModelRefused:
    """Build the error to raise; `help` names an alternative that would work."""
    assert reason in REASONS
    return ModelRefused(f"{message}; what would help: {help}", reason=reason, **details)
