"""The most likely words for a mask in a text."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.limits import bound_tokens
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {token_str, token, score, sequence} per text, best first."""
    check_texts(inputs)
    bound_tokens(pipeline, manifest)
    return call(pipeline, manifest, write_masks(pipeline.tokenizer, inputs), **parameters)


def write_masks(tokenizer: Any, inputs: list[str]) -> list[str]:
    """Replace each [MASK] in the texts by the model's own mask token."""
    mask, max_tokens = tokenizer.mask_token, tokenizer.model_max_length
    texts = [text if mask in text else text.replace("[MASK]", mask) for text in inputs]
    for text in texts:
        if mask not in text:
            raise InvalidInput("inputs: each must contain [MASK]")
        if (used := len(tokenizer(text)["input_ids"])) > max_tokens:
            raise InvalidInput(
                f"inputs: {used} tokens are more than the {max_tokens} that the model reads"
            )
    return texts
