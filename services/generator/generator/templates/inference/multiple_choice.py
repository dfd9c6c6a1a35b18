"""The likeliest of several endings of a text."""

from typing import Any

from generator.templates.inference.combining import combine
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.models import load as load
from generator.templates.inference.strings import check_text


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {choice, index, scores} per text."""
    import torch

    model, tokenizer = loaded
    max_tokens = min(tokenizer.model_max_length, manifest["run"]["maxTokens"])
    answers = []
    for value in combine(manifest, inputs, parameters):
        choices = [line.strip() for line in (value["choices"] or "").splitlines() if line.strip()]
        if not 2 <= len(choices) <= 64:
            raise InvalidInput("choices: give 2 to 64, one per line")
        check_text("text", value["text"])
        for choice in choices:
            check_text("choices", choice)
        pairs = tokenizer(
            [value["text"]] * len(choices),
            choices,
            truncation=True,
            max_length=max_tokens,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            logits = model(**{name: tensor[None] for name, tensor in pairs.items()}).logits
        scores = logits[0].float().softmax(-1).tolist()
        index = scores.index(max(scores))
        answers.append({"choice": choices[index], "index": index, "scores": scores})
    return answers
