"""Runs a pipeline of diffusers, once per input."""

import io
from collections.abc import Iterator
from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, whole
from generator.templates.inference.images import read_image
from generator.templates.inference.inputs import InvalidInput, check_texts
from generator.templates.inference.media import read_file


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the pipeline that model_index.json in `directory` names."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    pipeline = whole(
        lambda: diffusers.DiffusionPipeline.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    ).to(device)
    for part in pipeline.components.values():
        if hasattr(part, "get_vocab"):
            check_vocabulary(part)
    pipeline.set_progress_bar_config(disable=True)
    if manifest["run"]["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        for name in ("unet", "transformer"):
            if hasattr(pipeline, name):
                getattr(pipeline, name).compile()
    return pipeline


def arguments(
    pipeline: Any, subject: str, value: Any, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Build the pipeline's arguments; an unknown parameter is the caller's error."""
    import inspect

    names = {"steps": "num_inference_steps", "guidance": "guidance_scale", "frames": "num_frames"}
    values: dict[str, Any] = {
        names.get(name, name): parameter
        for name, parameter in parameters.items()
        if parameter is not None and not (name == "prompt" and parameter == "")
    }
    known = inspect.signature(pipeline.__call__).parameters
    if "prompt" in known and subject != "text":
        values.setdefault("prompt", "")
    for name in values:
        if name not in known:
            shown = next(
                (
                    public_name
                    for public_name, pipeline_name in names.items()
                    if pipeline_name == name
                ),
                name,
            )
            raise InvalidInput(f"{shown}: this model has no such parameter")
    values |= read(subject, value)
    if subject == "video" or "num_frames" in known:
        values["output_type"] = "np"
    if "frame_size" in known:  # Shap-E returns images unless asked for the shape
        values["output_type"] = "mesh"
    return values


def each(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> Iterator[Any]:
    """Run the pipeline on each input, with a random generator for each."""
    import torch

    seed = torch.initial_seed()
    for value in inputs:
        generator = torch.Generator("cpu").manual_seed(seed)
        options = arguments(pipeline, manifest["inputs"][0]["name"], value, parameters)
        if "number" in options:
            generator.manual_seed(options.pop("number"))
        yield pipeline(generator=generator, **options)


def read(subject: str, value: Any) -> dict[str, Any]:
    """Return the input as the pipeline's argument."""
    if subject == "text":
        check_texts([value])
        return {"prompt": value}
    if subject == "image":
        return {"image": read_image(value)}
    if subject == "video":
        return {"video": read_video(value)}
    return {"number": read_number(value)}


def read_number(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if isinstance(value, (bool, float)) or not 0 <= number < 2**32:
        raise InvalidInput("inputs: each must be an integer from 0 to 4294967295")
    return number


def read_video(value: Any) -> list[Any]:
    """Read the frames of an animated image, from base64 or from a file in /inputs."""
    from PIL import Image, ImageSequence

    content = read_file(value, "a video")
    try:
        with Image.open(io.BytesIO(content)) as video:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(video)]
    except Exception:  # noqa: BLE001  (image decoders raise any kind of error)
        raise InvalidInput("inputs: a video cannot be read") from None
