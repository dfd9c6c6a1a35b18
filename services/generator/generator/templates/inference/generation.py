"""Text, continued token by token."""

from typing import Any

from generator.templates.inference.module import InvalidInput, check_texts


def prepare(pipeline: Any, _: dict[str, Any]) -> None:
    if pipeline.tokenizer.pad_token_id is None:  # many generators have none, and batches need one
        pipeline.tokenizer.pad_token = pipeline.tokenizer.eos_token
    pipeline.tokenizer.padding_side = "left"  # what is continued stands at the right end


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One {generated_text} per input: a text, or a chat as a list of {role, content}."""
    most, batch_size = manifest["run"]["maxTokens"], manifest["run"]["batchSize"]
    given = {name: value for name, value in parameters.items() if value is not None}
    for value in inputs:
        used = count_tokens(pipeline.tokenizer, value)
        if used + given["max_new_tokens"] > most:
            raise InvalidInput(
                f"inputs: {used} tokens and max_new_tokens {given['max_new_tokens']} are more than "
                f"the {most} that the module has room for"
            )
    given["do_sample"] = given["temperature"] > 0
    if not given["do_sample"]:
        given = {n: v for n, v in given.items() if n not in ("temperature", "top_p", "top_k")}
    answers = pipeline(inputs, batch_size=batch_size, return_full_text=False, **given)
    return [answer[0] for answer in answers]


def count_tokens(tokenizer: Any, value: Any) -> int:
    if not isinstance(value, list):
        check_texts([value])
        return len(tokenizer(value)["input_ids"])
    if not value or not all(isinstance(turn, dict) for turn in value):
        raise InvalidInput("inputs: a chat is a list of {role, content}")
    check_texts([turn.get(key) for turn in value for key in ("role", "content")])
    if not tokenizer.chat_template:
        raise InvalidInput("inputs: this model takes a text, not a chat")
    return len(tokenizer.apply_chat_template(value, tokenize=True)["input_ids"])
