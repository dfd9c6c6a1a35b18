"""Text about images, videos and sounds, in reply to a text."""

from typing import Any

from generator.templates.inference.audio import read_audio
from generator.templates.inference.chats import write_chat
from generator.templates.inference.choosing import choice
from generator.templates.inference.classes import load_model
from generator.templates.inference.combining import combine
from generator.templates.inference.frames import read_frames
from generator.templates.inference.images import read_image
from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.readers import with_processor
from generator.templates.inference.strings import check_text
from generator.templates.inference.unpacking import load_packed


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """Load the model from the files in `directory`, and its processor."""
    if "packing" in manifest["run"]:
        model = load_packed(manifest, directory, device, dtype)
    else:
        model = load_model(manifest, directory, dtype).to(device)
    return with_processor(manifest, directory, model)


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {generated_text} per input, without the input itself."""
    import torch

    model, processor = loaded
    answers = []
    for value in combine(manifest, inputs, parameters):
        encoded = encode(model, processor, value)
        used = encoded["input_ids"].shape[1] if "input_ids" in encoded else 0
        if used + value["max_new_tokens"] > manifest["run"]["maxTokens"]:
            raise InvalidInput(
                f"inputs: {used} tokens and max_new_tokens {value['max_new_tokens']} are more than "
                f"the {manifest['run']['maxTokens']} that the module has room for"
            )
        with torch.inference_mode():
            tokens = model.generate(
                **encoded, **bounds(model, value["max_new_tokens"]), **choice(value["temperature"])
            )[0]
        if used and tokens[:used].tolist() == encoded["input_ids"][0].tolist():
            tokens = tokens[used:]  # a decoder's output begins with its input
        writer = processor[1] if isinstance(processor, tuple) else processor
        text = writer.batch_decode(tokens[None], skip_special_tokens=True)[0]
        answers.append({"generated_text": text.strip()})
    return answers


def bounds(model: Any, max_tokens: int) -> dict[str, Any]:
    """Return generation arguments: the token limit; text output only, if the model can speak."""
    if hasattr(model, "has_talker"):
        return {"thinker_max_new_tokens": max_tokens, "generation_mode": "text"}
    return {"max_new_tokens": max_tokens}


def encode(model: Any, processor: Any, value: dict[str, Any]) -> Any:  # noqa: C901  (a branch per kind of input)
    """Build the model's inputs, with its chat template if it has one."""
    text, media = value.get("text"), {}
    if text is not None:
        check_text("text", text)
    if value.get("image") is not None:
        media["images"] = read_image(value["image"])
    if value.get("audio") is not None:
        if not hasattr(processor, "feature_extractor"):
            raise InvalidInput("audio: this model takes no audio")
        media["audio"] = read_audio(value["audio"], processor.feature_extractor.sampling_rate)
    if value.get("video") is not None:
        if getattr(processor, "video_processor", None) is None:
            raise InvalidInput("video: this model takes no video")
        media |= as_video(*read_frames(value["video"], value.get("frames") or 8))
    if isinstance(processor, tuple):
        if text is not None:
            raise InvalidInput("text: this model takes only an image")
        return processor[0](**media, return_tensors="pt").to(model.device, model.dtype)
    if "images" in media and not hasattr(processor, "image_processor"):
        raise InvalidInput("image: this model takes no image")
    template = getattr(processor, "chat_template", None)
    if template:
        kinds = {"images": "image", "videos": "video", "audio": "audio"}
        parts = [{"type": kinds[kind]} for kind in media if kind in kinds]
        if text is not None:
            parts.append({"type": "text", "text": text})
        turn = {"role": "user", "content": parts}
        media["text"] = write_chat(processor, [turn], tokenize=False)
    elif text is not None:
        media["text"] = text
    return processor(**media, return_tensors="pt").to(model.device, model.dtype)


def as_video(frames: list[Any], seconds: float) -> dict[str, Any]:
    """Return processor arguments for a video whose frames are already sampled."""
    known = {
        "total_num_frames": len(frames),
        "fps": len(frames) / seconds,
        "duration": seconds,
        "frames_indices": list(range(len(frames))),
    }
    return {"videos": [frames], "video_metadata": [known], "do_sample_frames": False}
