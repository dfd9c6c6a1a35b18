"""Pictures, videos and shapes, by the pipelines of diffusers."""

import base64
from pathlib import Path
from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, whole
from generator.templates.inference.module import (
    INPUT_DIR,
    InvalidInput,
    check_texts,
    read_image,
)


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """The pipeline that model_index.json in `directory` names."""
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


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One answer per input, each from random numbers of its own: none depends on the others."""
    import torch

    task, seed = manifest["model"]["task"], torch.initial_seed()
    answers = []
    for value in inputs:
        generator = torch.Generator("cpu").manual_seed(seed)
        given = arguments(pipeline, manifest["inputs"][0]["name"], value, parameters)
        if "number" in given:
            generator.manual_seed(given.pop("number"))
        made = pipeline(generator=generator, **given)
        if task.endswith("-to-3d"):
            answers.append(as_ply(made.images[0]))
        elif task.endswith("-to-video"):
            frames = pipeline.video_processor.numpy_to_pil(pictures(made.frames))
            answers.append({"video": as_png(frames), "frames": len(frames)})
        else:
            answers.append({"image": as_png(made.images)})
    return answers


def pictures(frames: Any) -> Any:
    """The pictures of the one video: an array of (frames, height, width, channels) in 0 to 1."""
    import numpy as np

    return np.stack([np.asarray(frame, dtype="float32") for frame in frames[0]])


def arguments(
    pipeline: Any, subject: str, value: Any, parameters: dict[str, Any]
) -> dict[str, Any]:
    """What the pipeline is called with; a parameter that it does not know is the caller's error."""
    import inspect

    names = {"steps": "num_inference_steps", "guidance": "guidance_scale", "frames": "num_frames"}
    given: dict[str, Any] = {
        names.get(name, name): parameter
        for name, parameter in parameters.items()
        if parameter is not None and not (name == "prompt" and parameter == "")
    }
    known = inspect.signature(pipeline.__call__).parameters
    if "prompt" in known and subject != "text":
        given.setdefault("prompt", "")
    for name in given:
        if name not in known:
            shown = next((ours for ours, theirs in names.items() if theirs == name), name)
            raise InvalidInput(f"{shown}: this model has no such parameter")
    if subject == "text":
        check_texts([value])
        given["prompt"] = value
    elif subject == "image":
        given["image"] = read_image(value)
    elif subject == "video":
        given["video"] = read_video(value)
    else:
        given["number"] = read_number(value)
    if subject == "video" or "num_frames" in known:
        given["output_type"] = "np"
    if "frame_size" in known:  # of Shap-E: pictures of the shape, were the shape not asked for
        given["output_type"] = "mesh"
    return given


def read_number(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if isinstance(value, (bool, float)) or not 0 <= number < 2**32:
        raise InvalidInput("inputs: each is a whole number from 0 to 4294967295")
    return number


def read_video(value: Any) -> list[Any]:
    """The frames of an animated picture, from base64 or from a file in /inputs."""
    import io

    from PIL import Image, ImageSequence

    if not isinstance(value, str):
        raise InvalidInput("inputs: a video is base64 or a file's name")
    path = INPUT_DIR / value if len(value) < 256 else None
    try:
        if path and Path(value).name == value and path.is_file():
            content = path.read_bytes()
        else:
            content = base64.b64decode(value.rpartition("base64,")[2], validate=True)
        with Image.open(io.BytesIO(content)) as video:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(video)]
    except Exception:  # noqa: BLE001  (decoders of pictures raise whatever they like)
        raise InvalidInput("inputs: a video cannot be read") from None


def as_png(frames: list[Any]) -> str:
    """One picture, or several as an animation of 16 frames per second: nothing is lost in a PNG."""
    import io

    file = io.BytesIO()
    more: dict[str, Any] = (
        {"save_all": True, "append_images": frames[1:], "duration": 62} if frames[1:] else {}
    )
    frames[0].save(file, "png", **more)
    return base64.b64encode(file.getvalue()).decode()


def as_ply(mesh: Any) -> dict[str, Any]:
    """A shape as a PLY file, which programs for shapes open, with a colour per corner."""
    import tempfile

    from diffusers.utils import export_to_ply

    with tempfile.TemporaryDirectory() as folder:
        content = Path(export_to_ply(mesh, f"{folder}/shape.ply")).read_bytes()
    return {
        "shape": base64.b64encode(content).decode(),
        "corners": len(mesh.verts),
        "triangles": len(mesh.faces),
    }
