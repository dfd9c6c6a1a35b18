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
        inputs = write_masks(pipeline.tokenizer, inputs)
    if task == "token-classification":
        given |= overlap(pipeline.tokenizer, inputs, given["aggregation_strategy"])
    if task.startswith("zero-shot-"):
        given["candidate_labels"] = split_labels(
            pipeline.tokenizer, task, given["candidate_labels"]
        )
    if task == "zero-shot-object-detection":  # it takes the picture and the labels together
        return [pipeline(value, **given) for value in inputs]
    # Texts of several lengths stand in one batch only if something can fill them up.
    pads = pipeline.tokenizer is None or pipeline.tokenizer.pad_token_id is not None
    if len(inputs) > 1 and pads:
        return list(pipeline(inputs, batch_size=batch_size, **given))
    return [pipeline(value, **given) for value in inputs]


def write_masks(tokenizer: Any, inputs: list[str]) -> list[str]:
    """The texts with the model's own mask, whatever it is called, for each [MASK]."""
    mask, most = tokenizer.mask_token, tokenizer.model_max_length
    texts = [text if mask in text else text.replace("[MASK]", mask) for text in inputs]
    for text in texts:
        if mask not in text:
            raise InvalidInput("inputs: each has [MASK] where a word is to be found")
        if (used := len(tokenizer(text)["input_ids"])) > most:
            raise InvalidInput(
                f"inputs: {used} tokens are more than the {most} that the model reads"
            )
    return texts


def overlap(tokenizer: Any, inputs: list[str], strategy: str) -> dict[str, Any]:
    """How a text that is longer than the model reads is read: in parts that overlap, if at all."""
    if strategy not in ("none", "simple", "first", "average", "max"):
        raise InvalidInput("aggregation_strategy: is none, simple, first, average or max")
    most = tokenizer.model_max_length
    used = max(len(tokenizer(text)["input_ids"]) for text in inputs)
    if used <= most:
        return {}
    if strategy == "none" or not tokenizer.is_fast:
        raise InvalidInput(
            f"inputs: {used} tokens are more than the {most} that the model reads at once; longer "
            "texts are read in parts, if the tokenizer can say where they begin, and "
            "aggregation_strategy is not none"
        )
    return {"stride": most // 4}


def split_labels(tokenizer: Any, task: str, text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not labels:
        raise InvalidInput("candidate_labels: name at least one")
    check_texts(labels)
    # A label alone is looked for, in a sentence it is compared, beside a text it is weighed.
    sentence = "{}" if task == "zero-shot-object-detection" else "This is a photo of {}."
    most = tokenizer.model_max_length // (2 if task == "zero-shot-classification" else 1)
    for label in labels:
        if (used := len(tokenizer(sentence.format(label))["input_ids"])) > most:
            raise InvalidInput(f"candidate_labels: {used} tokens, and one may have {most}")
    return labels
