"""Relevance of texts to a query, by llama.cpp."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.llama import settings, start
from generator.templates.inference.strings import check_text
from generator.templates.inference.texts import check_texts


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:  # noqa: ARG001  (as all families)
    """Load the GGUF file as a ranker; return llama.cpp's server."""
    import xllamacpp

    params = settings(manifest, directory)
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    params.n_batch = params.n_ubatch = manifest["run"]["batchTokens"]
    return start(params)


def answer(
    server: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {score} per text: on the model's own scale, higher is better."""
    query = parameters["query"]
    if query is None:
        raise InvalidInput("query: is missing")
    check_texts(inputs)
    check_text("query", query)
    limit = manifest["run"]["maxTokens"]
    answers = []
    for text in inputs:
        result = server.handle_rerank({"query": query, "documents": [text]})
        if fault := result.get("error"):
            is_long = fault.get("type") == "exceed_context_size_error" or "too large" in str(fault)
            if not is_long:
                raise InvalidInput(f"inputs: llama.cpp refuses a text: {str(fault)[:500]}")
        # Its context is a multiple of 256 tokens, which may be more than the model has learnt.
        if fault or result["usage"]["prompt_tokens"] > limit:
            raise InvalidInput(
                f"inputs: a text and `query` are longer than the {limit} tokens that the model "
                "reads together; cut one of them"
            )
        answers.append({"score": result["results"][0]["relevance_score"]})
    return answers
