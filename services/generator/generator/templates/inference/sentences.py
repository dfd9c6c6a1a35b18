"""Texts as vectors, scores and weighted tokens, by sentence-transformers."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, whole
from generator.templates.inference.module import InvalidInput, check_texts


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """The model over the files in `directory`, of the class that serves the task."""
    import sentence_transformers

    task, settings = manifest["model"]["task"], manifest["run"]
    kinds = {"text-ranking": "CrossEncoder", "text-retrieval": "SparseEncoder"}
    kind = getattr(sentence_transformers, kinds.get(task, "SentenceTransformer"))
    arguments = {
        "attn_implementation": settings["attention"],
        "dtype": dtype,
        "use_safetensors": True,
    }
    try:
        model = whole(lambda: kind(directory, device=device, model_kwargs=arguments))
    except ValueError:  # an architecture without this attention: the reference serves every one
        arguments["attn_implementation"] = "eager"
        model = whole(lambda: kind(directory, device=device, model_kwargs=arguments))
    if hasattr(model.tokenizer, "get_vocab"):
        check_vocabulary(model.tokenizer)
    if settings["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model[0].compile(dynamic=True)
    return model


def answer(
    model: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One answer per text; `query`, where there is one, is what they are compared with."""
    task, query = manifest["model"]["task"], parameters.get("query")
    usual = {"batch_size": manifest["run"]["batchSize"], "show_progress_bar": False}
    check_texts(inputs if query is None else [*inputs, query])
    if task == "text-ranking":
        return rank(model, inputs, query, usual)
    if task == "text-retrieval":
        return weigh(model, inputs, query, parameters["top_k"], usual)
    vectors = model.encode(inputs, **usual)
    if task == "feature-extraction":
        return [vector.tolist() for vector in vectors]
    near = compare(model, query, vectors, model.encode, usual)
    return [
        {"embedding": vector.tolist(), "similarity": value}
        for vector, value in zip(vectors, near, strict=True)
    ]


def rank(
    model: Any, texts: list[str], query: str | None, usual: dict[str, Any]
) -> list[dict[str, Any]]:
    """{score} per text: on the model's own scale, higher is better."""
    if query is None:
        raise InvalidInput("query: is missing")
    scores = model.predict([(query, text) for text in texts], **usual)
    return [{"score": score} for score in scores.tolist()]


def weigh(
    model: Any, texts: list[str], query: str | None, most: int, usual: dict[str, Any]
) -> list[dict[str, Any]]:
    """Per text its heaviest tokens with their weights, and its score for the query."""
    documents = model.encode_document(texts, **usual)
    scores = compare(model, query, documents, model.encode_query, usual)
    return [
        {"tokens": [{"token": token, "weight": weight} for token, weight in found], "score": score}
        for found, score in zip(model.decode(documents, top_k=most), scores, strict=True)
    ]


def compare(
    model: Any, query: str | None, vectors: Any, encode: Any, usual: dict[str, Any]
) -> list[float | None]:
    """The model's own measure between the query and each vector; None without a query."""
    if query is None:
        return [None] * len(vectors)
    similar: list[float | None] = model.similarity(encode([query], **usual), vectors)[0].tolist()
    return similar
