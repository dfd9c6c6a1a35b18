"""Relevance of texts to a query."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.sentences import load_as, options
from generator.templates.inference.strings import check_text
from generator.templates.inference.texts import check_texts


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load a cross-encoder, whether sentence-transformers or transformers saved the model."""
    return load_as("CrossEncoder", manifest, directory, device, dtype)


def answer(
    model: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {score} per text: on the model's own scale, higher is better."""
    query = parameters["query"]
    if query is None:
        raise InvalidInput("query: is missing")
    check_texts(inputs)
    check_text("query", query)
    usual = options(manifest)
    if model.config.get_text_config().pad_token_id is None:
        usual["batch_size"] = 1  # a decoder that classifies would not find each text's last token
    scores = model.predict([(query, text) for text in inputs], **usual)
    return [{"score": score} for score in scores.tolist()]
