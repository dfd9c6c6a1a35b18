"""Everything that `transformers.pipeline` answers in one call."""

from typing import Any

from generator.templates.inference.module import InvalidInput, check_texts, read_image


def prepare(pipeline: Any, settings: dict[str, Any]) -> None:
    if pipeline.tokenizer is not None:  # some name no limit of their own, and then fail beyond it
        limit = min(pipeline.tokenizer.model_max_length, settings["maxTokens"])
        pipeline.tokenizer.model_max_length = limit


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One answer per input."""
    task, batch_size = manifest["model"]["task"], manifest["run"]["batchSize"]
    given = {name: value for name, value in parameters.items() if value is not None}
    if manifest["inputs"][0]["name"] == "image":
        inputs = [read_image(value) for value in inputs]
    else:
        check_texts(inputs)
    if task in ("text-classification", "feature-extraction"):
        given["truncation"] = True
    if task == "text-classification":
        given.setdefault("top_k", None)
    if task == "fill-mask":
        check_masks(pipeline.tokenizer.mask_token, inputs)
    if task.startswith("zero-shot-"):
        given["candidate_labels"] = split_labels(given["candidate_labels"])
    if task == "zero-shot-object-detection":  # it takes the picture and the labels together
        return [pipeline(value, **given) for value in inputs]
    # Texts of several lengths stand in one batch only if something can fill them up.
    pads = pipeline.tokenizer is None or pipeline.tokenizer.pad_token_id is not None
    if len(inputs) > 1 and pads:
        return list(pipeline(inputs, batch_size=batch_size, **given))
    return [pipeline(value, **given) for value in inputs]


def check_masks(mask: str, inputs: list[str]) -> None:
    if not all(mask in text for text in inputs):
        raise InvalidInput(f"inputs: each has {mask} where a word is to be found")


def split_labels(text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not labels:
        raise InvalidInput("candidate_labels: name at least one")
    return labels
