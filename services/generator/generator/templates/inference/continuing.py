"""Text generation from a text or a chat."""

from typing import Any

from generator.templates.inference.chats import write_chat
from generator.templates.inference.choosing import choice
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {generated_text} per input: a text, or a chat as a list of {role, content}."""
    max_tokens, batch_size = manifest["run"]["maxTokens"], manifest["run"]["batchSize"]
    if pipeline.tokenizer.pad_token_id is None:  # many generators lack one, and batches need it
        pipeline.tokenizer.pad_token = pipeline.tokenizer.eos_token
    pipeline.tokenizer.padding_side = "left"  # so that each text ends at the right
    options = {name: value for name, value in parameters.items() if value is not None}
    inputs = inputs if options.pop("raw") else [as_chat(pipeline.tokenizer, v) for v in inputs]
    for value in inputs:
        used = count_tokens(pipeline.tokenizer, value)
        if used + options["max_new_tokens"] > max_tokens:
            raise InvalidInput(
                f"inputs: {used} tokens and max_new_tokens {options['max_new_tokens']} are more "
                f"than the {max_tokens} that the module has room for"
            )
    # Not left to the pipeline, which has defaults of its own where the model's settings have none.
    own = pipeline.model.generation_config
    usual = (own.temperature or 1.0) if own.do_sample else 0.0
    options |= choice(options.get("temperature", usual))
    if not options["do_sample"]:
        options = {n: v for n, v in options.items() if n not in ("temperature", "top_p", "top_k")}
    answers = pipeline(inputs, batch_size=batch_size, return_full_text=False, **options)
    return [answer[0] for answer in answers]


def as_chat(tokenizer: Any, value: Any) -> Any:
    """Wrap a text as a chat of one turn, if the model was trained for chats."""
    if isinstance(value, str) and tokenizer.chat_template:
        check_texts([value])
        return [{"role": "user", "content": value}]
    return value


def count_tokens(tokenizer: Any, value: Any) -> int:
    if not isinstance(value, list):
        check_texts([value])
        return len(tokenizer(value)["input_ids"])
    if not value or not all(isinstance(turn, dict) for turn in value):
        raise InvalidInput("inputs: a chat is a list of {role, content}")
    check_texts([turn.get(key) for turn in value for key in ("role", "content")])
    if not tokenizer.chat_template:
        raise InvalidInput("inputs: this model takes a text, not a chat")
    return len(write_chat(tokenizer, value, tokenize=True)["input_ids"])
