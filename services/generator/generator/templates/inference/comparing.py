"""Similarity of a query to texts, by a sentence-transformers model."""

from typing import Any


def compare(
    model: Any, query: str | None, vectors: Any, encode: Any, usual: dict[str, Any]
) -> list[float | None]:
    """Return the query's similarity to each vector, by the model's measure; None if no query."""
    if query is None:
        return [None] * len(vectors)
    similar: list[float | None] = model.similarity(encode([query], **usual), vectors)[0].tolist()
    return similar
