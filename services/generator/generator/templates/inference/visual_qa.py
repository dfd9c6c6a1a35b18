"""Answers to a question about an image."""

from typing import Any

from generator.templates.inference.combining import combine
from generator.templates.inference.images import read_image
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.models import load as load
from generator.templates.inference.strings import check_text


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {answer, score} per image, best first; generated answers have no score."""
    import torch

    model, processor = loaded
    max_tokens = min(processor.tokenizer.model_max_length, manifest["run"]["maxTokens"])
    answers: list[Any] = []
    for value in combine(manifest, inputs, parameters):
        if value["question"] is None:
            raise InvalidInput("question: is missing")
        check_text("question", value["question"])
        encoded = processor(
            images=read_image(value["image"]),
            text=value["question"],
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        ).to(model.device, model.dtype)
        with torch.inference_mode():
            if model.can_generate():
                tokens = model.generate(**encoded, max_new_tokens=64, do_sample=False)
                text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
                answers.append([{"answer": text.strip(), "score": None}])
                continue
            likely = model(**encoded).logits[0].float().sigmoid()
        labels = model.config.id2label
        best = likely.topk(min(value["top_k"], len(labels)))
        answers.append(
            [
                {"answer": labels[label], "score": score}
                for label, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        )
    return answers
