"""Texts as vectors, and their similarity to a query."""

from typing import Any

from generator.templates.inference.inputs import check_texts
from generator.templates.inference.sentences import compare, options
from generator.templates.inference.sentences import load as load


def answer(
    model: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {embedding, similarity} per text; `similarity` is null without `query`."""
    query = parameters["query"]
    check_texts(inputs if query is None else [*inputs, query])
    # If the model has prompts, queries and documents have different ones.
    vectors = model.encode_document(inputs, **options(manifest))
    near = compare(model, query, vectors, model.encode_query, options(manifest))
    return [
        {"embedding": vector.tolist(), "similarity": value}
        for vector, value in zip(vectors, near, strict=True)
    ]
