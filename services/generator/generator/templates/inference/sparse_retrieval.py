"""Texts as weighted tokens, and their scores for a query."""

from typing import Any

from generator.templates.inference.comparing import compare
from generator.templates.inference.sentences import load as load
from generator.templates.inference.sentences import options
from generator.templates.inference.strings import check_text
from generator.templates.inference.texts import check_texts


def answer(
    model: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {tokens, score} per text: its heaviest tokens, and its score for the query."""
    query = parameters["query"]
    check_texts(inputs)
    if query is not None:
        check_text("query", query)
    usual = options(manifest)
    documents = model.encode_document(inputs, **usual)
    scores = compare(model, query, documents, model.encode_query, usual)
    heaviest = model.decode(documents, top_k=parameters["top_k"])
    return [
        {"tokens": [{"token": token, "weight": weight} for token, weight in tokens], "score": score}
        for tokens, score in zip(heaviest, scores, strict=True)
    ]
