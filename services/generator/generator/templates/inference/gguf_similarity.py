"""Texts as vectors, and their similarity to a query, by llama.cpp."""

from typing import Any

from generator.templates.inference.gguf_vectors import load as load
from generator.templates.inference.gguf_vectors import vectors_of
from generator.templates.inference.strings import check_text
from generator.templates.inference.texts import check_texts


def answer(
    server: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {embedding, similarity} per text; `similarity` is null without `query`."""
    check_texts(inputs)
    near = None
    if (query := parameters["query"]) is not None:
        check_text("query", query)
        [near] = vectors_of(server, manifest, [query], "query")
    return [
        {"embedding": vector, "similarity": None if near is None else cosine(near, vector)}
        for vector in vectors_of(server, manifest, inputs)
    ]


def cosine(first: list[float], second: list[float]) -> float:
    """Return the product of two vectors of length 1."""
    return sum(a * b for a, b in zip(first, second, strict=True))
