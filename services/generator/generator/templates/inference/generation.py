"""Text, continued token by token."""

from typing import Any

from generator.templates.inference.module import InvalidInput


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """The text-generation pipeline over the files in `directory`."""
    import transformers

    settings = manifest["run"]

    def build(attention: str) -> Any:
        return transformers.pipeline(
            "text-generation",
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
    if pipeline.tokenizer.pad_token_id is None:  # many generators have none, and batches need one
        pipeline.tokenizer.pad_token = pipeline.tokenizer.eos_token
    pipeline.tokenizer.padding_side = "left"  # what is continued stands at the right end
    if settings["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        pipeline.model.compile(dynamic=True)
    return pipeline


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One {generated_text} per input: a text, or a chat as a list of {role, content}."""
    given = {name: value for name, value in parameters.items() if value is not None}
    room = manifest["run"]["maxTokens"] - given["max_new_tokens"]
    for value in inputs:
        used = count_tokens(pipeline.tokenizer, value)
        if used > room:
            raise InvalidInput(
                f"inputs: {used} tokens and max_new_tokens {given['max_new_tokens']} are more than "
                f"the {manifest['run']['maxTokens']} that the module has room for"
            )
    given["do_sample"] = given["temperature"] > 0
    if not given["do_sample"]:
        given = {n: v for n, v in given.items() if n not in ("temperature", "top_p", "top_k")}
    answers = pipeline(
        inputs, batch_size=manifest["run"]["batchSize"], return_full_text=False, **given
    )
    return [answer[0] for answer in answers]


def count_tokens(tokenizer: Any, value: Any) -> int:
    if isinstance(value, str) and value:
        return len(tokenizer(value)["input_ids"])
    is_chat = isinstance(value, list) and all(
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
        for turn in value
    )
    if not is_chat or not value:
        raise InvalidInput("inputs: each is a text or a list of {role, content}, and not empty")
    if not tokenizer.chat_template:
        raise InvalidInput("inputs: this model takes a text, not a chat")
    return len(tokenizer.apply_chat_template(value, tokenize=True)["input_ids"])
