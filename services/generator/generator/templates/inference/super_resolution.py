"""A sharper, larger image from an image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.models import load as load
from generator.templates.inference.png import as_png


def answer(
    loaded: tuple[Any, Any], _: dict[str, Any], inputs: list[Any], __: dict[str, Any]
) -> list[Any]:
    """Return one {image, width, height} per image, the image a PNG as base64."""
    import torch
    from PIL import Image

    model, processor = loaded
    answers = []
    for picture in [read_image(value) for value in inputs]:
        encoded = processor(picture, return_tensors="pt").to(model.device, model.dtype)
        with torch.inference_mode():
            image = model(**encoded).reconstruction[0].float().clamp(0, 1).cpu()
        # The processor pads an image to a multiple of the window; the padding is cut off again.
        wide, high = (side * model.config.upscale for side in picture.size)
        pixels = (image[:, :high, :wide] * 255).round().byte().permute(1, 2, 0).numpy()
        answers.append({"image": as_png(Image.fromarray(pixels)), "width": wide, "height": high})
    return answers
