"""Labels that the caller names."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.texts import check_texts


def split_labels(tokenizer: Any, text: str, sentence: str, most: int) -> list[str]:
    """Split comma-separated labels; each, put into `sentence`, has at most `most` tokens."""
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not labels:
        raise InvalidInput("candidate_labels: name at least one")
    check_texts(labels)
    for label in labels:
        if (used := len(tokenizer(sentence.format(label))["input_ids"])) > most:
            raise InvalidInput(f"candidate_labels: {used} tokens, and one may have {most}")
    return labels
