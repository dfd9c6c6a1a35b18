"""Vectors of texts by llama.cpp, with the pooling that the GGUF file's header names."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.llama import settings, start


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:  # noqa: ARG001  (as all families)
    """Load the GGUF file as an embedder; return llama.cpp's server."""
    params = settings(manifest, directory)
    params.embedding = True
    params.n_batch = params.n_ubatch = manifest["run"]["batchTokens"]
    return start(params)


def vectors_of(
    server: Any, manifest: dict[str, Any], texts: list[str], name: str = "inputs"
) -> list[list[float]]:
    """Return one vector of length 1 per text. Raises InvalidInput for a text that is too long."""
    limit = manifest["run"]["maxTokens"]
    vectors = []
    for text in texts:
        result = server.handle_embeddings({"input": text})
        if fault := result.get("error"):
            if "too large" in str(fault):
                raise too_long(name, limit)
            if fault.get("type") == "exceed_context_size_error":
                # Where llama.cpp has a cache, a text must be shorter than the context.
                raise too_long(name, min(limit, fault["n_ctx"] - 1))
            raise InvalidInput(f"{name}: llama.cpp refuses a text: {str(fault)[:500]}")
        # Its context is a multiple of 256 tokens, which may be more than the model has learnt.
        if result["usage"]["prompt_tokens"] > limit:
            raise too_long(name, limit)
        vectors.append(result["data"][0]["embedding"])
    return vectors


def too_long(name: str, limit: int) -> InvalidInput:
    return InvalidInput(f"{name}: longer than the {limit} tokens that the model reads; cut it")
