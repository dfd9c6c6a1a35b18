"""Labels of a video."""

from typing import Any

from generator.templates.inference.frames import read_frames
from generator.templates.inference.models import load as load


def answer(
    loaded: tuple[Any, Any], __: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {label, score} per video, best first."""
    import torch

    model, processor = loaded
    config = model.config
    count = min(parameters["top_k"] or config.num_labels, config.num_labels)
    answers = []
    for frames, _ in [read_frames(value, config.num_frames) for value in inputs]:
        encoded = processor(frames, return_tensors="pt").to(model.device, model.dtype)
        with torch.inference_mode():
            scores, labels = model(**encoded).logits[0].float().softmax(-1).topk(count)
        answers.append(
            [
                {"label": config.id2label[label], "score": score}
                for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
            ]
        )
    return answers
