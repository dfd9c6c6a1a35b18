"""Texts as vectors, and their similarity to a query."""

from typing import Any

from generator.templates.inference.comparing import compare
from generator.templates.inference.dimensions import cut
from generator.templates.inference.sentences import load as load
from generator.templates.inference.strings import check_text
from generator.templates.inference.texts import check_texts


def answer(
    model: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {embedding, similarity} per text; `similarity` is null without `query`."""
    query = parameters["query"]
    check_texts(inputs)
    if query is not None:
        check_text("query", query)
    usual = cut(model, manifest, parameters["dimensions"])
    # If the model has prompts, queries and documents have different ones.
    vectors = model.encode_document(inputs, **usual)
    near = compare(model, query, vectors, model.encode_query, usual)
    return [
        {"embedding": vector.tolist(), "similarity": value}
        for vector, value in zip(vectors, near, strict=True)
    ]
