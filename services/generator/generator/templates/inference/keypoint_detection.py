"""Keypoints of an image, each with a descriptor to match it in another image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.models import load as load


def answer(
    loaded: tuple[Any, Any], _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {x, y, score, descriptor} per image, best first; x and y in pixels."""
    import torch

    model, processor = loaded
    answers = []
    for picture in [read_image(value) for value in inputs]:
        encoded = processor(picture, return_tensors="pt").to(model.device, model.dtype)
        with torch.inference_mode():
            output = model(**encoded)
        keypoints = processor.post_process_keypoint_detection(output, [picture.size[::-1]])[0]
        points = [
            {"x": float(x), "y": float(y), "score": score, "descriptor": descriptor}
            for (x, y), score, descriptor in zip(
                keypoints["keypoints"].tolist(),
                keypoints["scores"].tolist(),
                keypoints["descriptors"].tolist(),
                strict=True,
            )
            if score >= parameters["threshold"]
        ]
        answers.append(sorted(points, key=lambda point: -point["score"])[: parameters["top_k"]])
    return answers
