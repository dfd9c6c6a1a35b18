"""The answer to a question, found in a text."""

from typing import Any

from generator.templates.inference.combining import combine
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.models import load as load
from generator.templates.inference.strings import check_text


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {answer, score, start, end} per question; start and end are characters."""
    model, tokenizer = loaded
    max_tokens = min(tokenizer.model_max_length, manifest["run"]["maxTokens"])
    questions = combine(manifest, inputs, parameters)
    for value in questions:
        if value["context"] is None:
            raise InvalidInput("context: is missing")
        for name in ("question", "context"):
            check_text(name, value[name])
        if len(tokenizer(value["question"])["input_ids"]) > max_tokens // 2:
            raise InvalidInput(f"question: is longer than {max_tokens // 2} tokens")
    return [find(model, tokenizer, value, max_tokens) for value in questions]


def find(model: Any, tokenizer: Any, value: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """Find the likeliest span. A long text is read in parts that overlap by up to 128 tokens."""
    import torch

    parts = tokenizer(
        value["question"],
        value["context"],
        truncation="only_second",
        max_length=max_tokens,
        stride=min(128, max_tokens // 4),
        padding=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets = parts.pop("offset_mapping")
    parts.pop("overflow_to_sample_mapping", None)
    best: dict[str, Any] = {"answer": "", "score": 0.0, "start": 0, "end": 0}
    for number in range(len(offsets)):
        part = {
            name: tensor[number : number + 1].to(model.device) for name, tensor in parts.items()
        }
        with torch.inference_mode():
            output = model(**part)
        outside = torch.tensor([owner != 1 for owner in parts.sequence_ids(number)])
        begins, ends = (
            logits[0].float().cpu().masked_fill(outside, -torch.inf).softmax(-1)
            for logits in (output.start_logits, output.end_logits)
        )
        # Row: start of the span; column: its end, not before the start and not too far after it.
        spans = torch.outer(begins, ends).triu().tril(value["max_answer_tokens"] - 1)
        first, last = divmod(int(spans.argmax()), len(begins))
        if (score := float(spans[first, last])) > best["score"]:
            start, end = int(offsets[number][first][0]), int(offsets[number][last][1])
            span = value["context"][start:end]
            best = {"answer": span, "score": score, "start": start, "end": end}
    return best
