"""Masks of all objects in an image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.loading import load as load
from generator.templates.inference.png import as_png
from generator.templates.inference.shrinking import shrink


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {score, mask} per image, best first; masks are PNGs as base64."""
    from PIL import Image

    wanted = {
        "points_per_crop": parameters["points"],
        "pred_iou_thresh": parameters["threshold"],
        "stability_score_thresh": parameters["stability"],
    }
    answers = []
    for picture in [read_image(value) for value in inputs]:
        masks = pipeline(shrink(picture), **wanted)
        # Each mask is rows of true and false.
        answers.append(
            [
                {"score": float(score), "mask": as_png(mask.resize(picture.size, 0))}
                for score, mask in zip(
                    masks["scores"].tolist(),
                    (Image.fromarray(mask.cpu().numpy()) for mask in masks["masks"]),
                    strict=True,
                )
            ]
        )
    return answers
