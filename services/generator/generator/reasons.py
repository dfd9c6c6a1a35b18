"""How a model is refused: with the reason, as a word and in a sentence, and what would help."""

from typing import Any

from common.errors import ModelRefused

# Every word that `details.reason` may have; docs/how-to/modules.md says what each means.
REASONS = frozenset(
    ("gated", "disabled", "task", "library", "adapter", "quantized", "gguf-only", "pickle-only")
) | {
    *("no-weights", "weights", "incomplete", "custom-code", "config", "architecture"),
    *("license", "too-large", "validation"),
}


def refuse(said: str, reason: str, help: str, **details: Any) -> ModelRefused:
    """The error to raise; `help` is what would help who wants a module all the same."""
    assert reason in REASONS
    return ModelRefused(f"{said}; what would help: {help}", reason=reason, **details)
