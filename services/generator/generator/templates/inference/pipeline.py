"""Everything that `transformers.pipeline` answers in one call."""

from typing import Any

from generator.templates.inference.module import InvalidInput, read_image


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """The pipeline of the module's task over the files in `directory`."""
    import transformers

    settings, task = manifest["run"], manifest["model"]["task"]

    def build(attention: str) -> Any:
        return transformers.pipeline(
            task,
            model=directory,
            device=device,
            dtype=dtype,
            trust_remote_code=False,
            model_kwargs={"attn_implementation": attention, "use_safetensors": True},
        )

    try:
        pipeline = build(settings["attention"])
    except ValueError:  # an architecture without this attention: the reference serves every one
        pipeline = build("eager")
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer is not None:  # some name no limit of their own, and the model then fails
        tokenizer.model_max_length = min(tokenizer.model_max_length, settings["maxTokens"])
    if settings["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        pipeline.model.compile(dynamic=True)
    return pipeline


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One answer per input."""
    task = manifest["model"]["task"]
    given = {name: value for name, value in parameters.items() if value is not None}
    if manifest["inputs"][0]["name"] == "image":
        inputs = [read_image(value) for value in inputs]
    elif not all(isinstance(value, str) and value for value in inputs):
        raise InvalidInput("inputs: each is a text, and not an empty one")
    if task in ("text-classification", "feature-extraction"):
        given["truncation"] = True
    if task == "text-classification":
        given.setdefault("top_k", None)
    if task == "zero-shot-classification":
        labels = [label.strip() for label in given["candidate_labels"].split(",")]
        given["candidate_labels"] = [label for label in labels if label]
        if not given["candidate_labels"]:
            raise InvalidInput("candidate_labels: name at least one")
    batch_size = manifest["run"]["batchSize"]
    if len(inputs) > 1 and tokenizer_pads(pipeline):
        return list(pipeline(inputs, batch_size=batch_size, **given))
    return [single(pipeline([value], **given)) for value in inputs]


def tokenizer_pads(pipeline: Any) -> bool:
    """Whether inputs of several lengths can stand in one batch."""
    tokenizer = getattr(pipeline, "tokenizer", None)
    return tokenizer is None or tokenizer.pad_token_id is not None


def single(answers: Any) -> Any:
    """Fill-mask answers one input without the list around it, the others with it."""
    return answers[0] if len(answers) == 1 else answers
