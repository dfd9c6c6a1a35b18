"""What happens in a video."""

from typing import Any

from generator.templates.inference.module import InvalidInput, read_file


def answer(
    loaded: tuple[Any, Any], _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """A list of {label, score} per video, best first."""
    import torch

    model, processor = loaded
    config = model.config
    most = min(parameters["top_k"] or config.num_labels, config.num_labels)
    answers = []
    for frames in [read_frames(value, config.num_frames) for value in inputs]:
        encoded = processor(frames, return_tensors="pt").to(model.device, model.dtype)
        with torch.inference_mode():
            scores, labels = model(**encoded).logits[0].float().softmax(-1).topk(most)
        answers.append(
            [
                {"label": config.id2label[label], "score": score}
                for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
            ]
        )
    return answers


def read_frames(value: Any, count: int) -> list[Any]:
    """`count` pictures of an animated GIF, WebP or PNG, evenly over its length."""
    import io

    from PIL import Image

    content, frames = read_file(value, "a video"), []
    try:
        with Image.open(io.BytesIO(content)) as file:
            length = getattr(file, "n_frames", 1)
            for number in range(count):
                file.seek(round(number * (length - 1) / max(count - 1, 1)))
                frames.append(file.convert("RGB"))
    except Exception:  # noqa: BLE001  (decoders of pictures raise whatever they like)
        raise InvalidInput(
            "inputs: a video cannot be read; send an animated GIF, WebP or PNG"
        ) from None
    return frames
