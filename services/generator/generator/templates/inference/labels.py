"""Labels that the caller submits."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.strings import check_text


def split_labels(tokenizer: Any, text: str, sentence: str, max_tokens: int) -> list[str]:
    """Split comma-separated labels; in `sentence` each may have `max_tokens` tokens."""
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not labels:
        raise InvalidInput("candidate_labels: name at least one")
    for label in labels:
        check_text("candidate_labels", label)
        if (used := len(tokenizer(sentence.format(label))["input_ids"])) > max_tokens:
            raise InvalidInput(f"candidate_labels: {used} tokens, and one may have {max_tokens}")
    return labels
