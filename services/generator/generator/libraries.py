"""The tasks of the libraries beside transformers, and which row serves a model.

A row's `classes` are for diffusers the pipelines' names (`_class_name` of model_index.json): those
that the tests run, and no others. For sentence-transformers they are the library's own classes.
"""

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from generator.media_tasks import MEDIA_TASKS
from generator.tasks import CUT, TASKS, TOP_K, Parameter, Task

QUERY = Parameter("query", "string", "What the inputs are compared with.")
STEPS = Parameter("steps", "integer", "Steps of denoising: more take longer.", 30, 1, 1000)
PROMPT = Parameter("prompt", "string", "What is to be seen.", "")
NEGATIVE = Parameter("negative_prompt", "string", "What is not to be seen.")
GUIDANCE = Parameter("guidance", "number", "How closely the text is followed.", None, 0, 50)
WIDTH = Parameter("width", "integer", "In pixels.", None, 8, 4096)
HEIGHT = Parameter("height", "integer", "In pixels.", None, 8, 4096)
FRAMES = Parameter("frames", "integer", "Pictures in the video.", None, 1, 512)
STRENGTH = Parameter("strength", "number", "How much of the input may change.", None, 0.01, 1)

IMAGE = "For each input {image}: a PNG as base64."
SHAPE = "For each input {shape, corners, triangles}: a PLY file as base64, and what it has."
VIDEO = "For each input {video, frames}: an animated PNG as base64, and its length."

SENTENCES = {
    task.name: task
    for task in (
        Task(
            "sentence-similarity",
            "sentences",
            "text",
            "For each input {embedding, similarity}: similarity to `query`, null without one."
            + CUT,
            ("SentenceTransformer",),
            parameters=(QUERY,),
        ),
        Task(
            "feature-extraction",
            "sentences",
            "text",
            "For each input its embedding: one vector." + CUT,
            ("SentenceTransformer",),
        ),
        Task(
            "text-ranking",
            "sentences",
            "text",
            "For each input {score}: how well it answers `query`." + CUT,
            ("CrossEncoder",),
            parameters=(QUERY,),
        ),
        Task(
            "text-retrieval",
            "sentences",
            "text",
            "For each input {tokens, score}: its weighted tokens, and its score for `query`." + CUT,
            ("SparseEncoder",),
            parameters=(
                QUERY,
                Parameter("top_k", "integer", "Most tokens to answer.", 64, 1, 10_000),
            ),
        ),
    )
}

DIFFUSION = {
    task.name: task
    for task in (
        Task(
            "unconditional-image-generation",
            "diffusion",
            "number",
            IMAGE,
            ("DDPMPipeline", "DDIMPipeline"),
            parameters=(STEPS,),
        ),
        Task(
            "text-to-image",
            "diffusion",
            "text",
            IMAGE,
            (
                *("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
                *("StableDiffusion3Pipeline", "FluxPipeline"),
            ),
            parameters=(STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT),
        ),
        Task(
            "image-to-image",
            "diffusion",
            "image",
            IMAGE,
            (
                *("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
                "StableDiffusionInstructPix2PixPipeline",
            ),
            parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, STRENGTH),
        ),
        Task(
            "image-text-to-image",
            "diffusion",
            "image",
            IMAGE,
            (
                *("StableDiffusionInstructPix2PixPipeline", "StableDiffusionImg2ImgPipeline"),
                "StableDiffusionXLImg2ImgPipeline",
            ),
            parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, STRENGTH),
        ),
        Task(
            "text-to-video",
            "diffusion",
            "text",
            VIDEO,
            ("WanPipeline", "LTXPipeline"),
            parameters=(STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT, FRAMES),
        ),
        Task(
            "image-to-video",
            "diffusion",
            "image",
            VIDEO,
            ("WanImageToVideoPipeline", "LTXImageToVideoPipeline"),
            parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT, FRAMES),
        ),
        Task(
            "video-to-video",
            "diffusion",
            "video",
            VIDEO,
            ("WanVideoToVideoPipeline",),
            parameters=(PROMPT, STEPS, GUIDANCE, NEGATIVE, WIDTH, HEIGHT, STRENGTH),
        ),
        Task(
            "text-to-3d",
            "diffusion",
            "text",
            SHAPE,
            ("ShapEPipeline",),
            parameters=(STEPS, GUIDANCE),
        ),
        Task(
            "image-to-3d",
            "diffusion",
            "image",
            SHAPE,
            ("ShapEImg2ImgPipeline",),
            parameters=(STEPS, GUIDANCE),
        ),
    )
}
DIFFUSION["image-text-to-video"] = replace(DIFFUSION["image-to-video"], name="image-text-to-video")

TIMM = {
    task.name: task
    for task in (
        Task(
            "image-classification",
            "backbones",
            "image",
            "For each input a list of {label, score}, best first.",
            parameters=(TOP_K,),
        ),
        Task(
            "image-feature-extraction",
            "backbones",
            "image",
            "For each input what the model saw: one vector.",
        ),
    )
}

LIBRARIES = {
    "transformers": {**TASKS, **MEDIA_TASKS},
    "sentence-transformers": SENTENCES,
    "diffusers": DIFFUSION,
    "timm": TIMM,
}


def rows_of(tag: str) -> dict[str, Task]:
    """The rows that serve a tag, by library."""
    return {library: rows[tag] for library, rows in LIBRARIES.items() if tag in rows}


def row(tag: str, library: str) -> Task:
    """The row of a module that was made."""
    return LIBRARIES[library][tag]


def architectures() -> dict[str, list[str]]:
    """The values of `model_type` that the pinned transformers loads, by task.

    Also what timm and diffusers have, by their names.
    """
    known: dict[str, list[str]] = table()["served"]
    return known


@cache
def table() -> dict[str, Any]:
    """What services/generator/tests/architectures.py has found out of the pinned libraries."""
    text = (files("generator") / "templates" / "architectures.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read
