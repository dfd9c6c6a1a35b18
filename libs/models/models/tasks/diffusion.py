"""Task rows of the diffusers library.

Their `classes` are pipelines' names (`_class_name` of model_index.json): those that the tests run,
and no others.
"""

from dataclasses import replace

from models.tasks.row import Parameter, Returns, Task

STEPS = Parameter("steps", "integer", "Denoising steps; more take longer.", 30, 1, 1000)
PROMPT = Parameter("prompt", "string", "What to show.", "")
NEGATIVE = Parameter("negative_prompt", "string", "What to avoid.")
GUIDANCE = Parameter("guidance", "number", "How closely to follow the prompt.", None, 0, 50)
WIDTH = Parameter("width", "integer", "In pixels.", None, 8, 4096)
HEIGHT = Parameter("height", "integer", "In pixels.", None, 8, 4096)
FRAMES = Parameter("frames", "integer", "Frames in the video.", None, 1, 512)
STRENGTH = Parameter("strength", "number", "How much of the input may change.", None, 0.01, 1)

# Pipelines that guide by a second text, although they also take models with guidance as an input.
GUIDED_BY_TEXT = frozenset(("QwenImagePipeline",))
# Models that were distilled to few steps without guidance, which spoils their images. No file of
# theirs says it, but their names do: the pipeline, a part of the name, and the values of the
# example in the docstring of diffusers' ZImagePipeline, whose own defaults are for other models.
DISTILLED: dict[str, tuple[str, dict[str, float]]] = {
    "ZImagePipeline": ("turbo", {"steps": 8, "guidance": 0.0}),
}

IMAGE = Returns({"image": "image"})
VIDEO = Returns({"video": "video", "frames": "integer"}, note="`frames` is its length.")
SHAPE = Returns({"shape": "shape", "corners": "integer", "triangles": "integer"})


def _task(tag: str, takes: str, returns: Returns, classes: tuple[str, ...], **more: object) -> Task:
    loads = ("DiffusionPipeline",)
    [made, *_] = returns.fields
    family = f"{takes}_to_{made}"
    return Task(tag, "diffusers", family, takes, returns, classes, loads, **more)  # type: ignore[arg-type]  # takes and more are a row's own fields


TO_VIDEO = _task(
    "image-to-video",
    "image",
    VIDEO,
    ("WanImageToVideoPipeline", "LTXImageToVideoPipeline"),
    parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT, FRAMES),
)

DIFFUSION = (
    _task(
        "unconditional-image-generation",
        "number",
        IMAGE,
        ("DDPMPipeline", "DDIMPipeline"),
        parameters=(STEPS,),
        measured=True,
    ),
    _task(
        "text-to-image",
        "text",
        IMAGE,
        (
            *("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
            *("StableDiffusion3Pipeline", "FluxPipeline"),
            *("ZImagePipeline", "QwenImagePipeline"),
        ),
        parameters=(STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT),
        measured=True,
    ),
    _task(
        "image-to-image",
        "image",
        IMAGE,
        (
            *("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
            "StableDiffusionInstructPix2PixPipeline",
        ),
        parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, STRENGTH),
        measured=True,
    ),
    _task(
        "image-text-to-image",
        "image",
        IMAGE,
        (
            *("StableDiffusionInstructPix2PixPipeline", "StableDiffusionImg2ImgPipeline"),
            "StableDiffusionXLImg2ImgPipeline",
        ),
        parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, STRENGTH),
    ),
    _task(
        "text-to-video",
        "text",
        VIDEO,
        ("WanPipeline", "LTXPipeline"),
        parameters=(STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT, FRAMES),
    ),
    TO_VIDEO,
    replace(TO_VIDEO, tag="image-text-to-video"),
    _task(
        "video-to-video",
        "video",
        VIDEO,
        ("WanVideoToVideoPipeline",),
        parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT, STRENGTH),
    ),
    _task("text-to-3d", "text", SHAPE, ("ShapEPipeline",), parameters=(STEPS, GUIDANCE)),
    _task("image-to-3d", "image", SHAPE, ("ShapEImg2ImgPipeline",), parameters=(STEPS, GUIDANCE)),
)


def distilled(task: Task, pipeline: str | None, id: str) -> Task:
    """Return the row with the defaults of a distilled model, which its name identifies."""
    part, defaults = DISTILLED.get(pipeline or "", ("", {}))
    if not part or part not in id.rpartition("/")[2].lower():
        return task
    parameters = tuple(
        replace(one, default=defaults.get(one.name, one.default)) for one in task.parameters
    )
    return replace(task, parameters=parameters)
