"""The memory of diffusers' pipelines at their default sizes."""

import inspect
from typing import Any

import diffusers
import pytest

from models.pipelines import PIPELINES, diffusion_bytes
from models.tasks import LIBRARIES
from models.tasks.diffusion import distilled


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipelines_defaults_match_the_pinned_library(name: str) -> None:
    usual, known = PIPELINES[name], inspect.signature(getattr(diffusers, name).__call__).parameters
    for size, value in (("width", usual.width), ("height", usual.height)):
        assert known[size].default in (value, None) if size in known else value is None
    if "num_frames" in known:
        assert known["num_frames"].default == usual.frames


def test_the_memory_of_a_video_of_the_pipelines_default_size_is_counted_once() -> None:
    # As Wan2.2-A14B: 32,760 tokens of 5,120, the prompt and the negative prompt in sequence.
    config = {
        "architectures": ["WanPipeline"],
        "denoiser": {"num_attention_heads": 40, "attention_head_dim": 128},
        "vae": {},
    }
    task = LIBRARIES["diffusers"]["text-to-video"]
    assert diffusion_bytes(config, task, 2) == 32_760 * 5_120 * 16 * 2


def test_the_image_decoder_of_sdxl_is_counted_in_float32() -> None:
    config: dict[str, Any] = {
        "architectures": ["StableDiffusionXLPipeline"],
        "denoiser": {"sample_size": 128, "block_out_channels": [320, 640, 1280]},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    }
    task = LIBRARIES["diffusers"]["text-to-image"]
    decoded = 1024**2 * 128 * 2 * 4
    assert diffusion_bytes(config, task, 2) == decoded * 4
    config["vae"]["force_upcast"] = False
    assert diffusion_bytes(config, task, 2) == decoded * 2


def test_the_decoder_of_qwen_image_is_counted_as_a_video_decoder() -> None:
    config: dict[str, Any] = {
        "architectures": ["QwenImagePipeline"],
        "denoiser": {"num_attention_heads": 24, "attention_head_dim": 128},
        "vae": {"_class_name": "AutoencoderKLQwenImage"},
    }
    task = LIBRARIES["diffusers"]["text-to-image"]
    assert diffusion_bytes(config, task, 4) * (256 / 1024) ** 2 >= 696 * 2**20


def test_a_model_is_known_as_distilled_by_its_own_name_and_not_by_its_owners() -> None:
    task = LIBRARIES["diffusers"]["text-to-image"]
    steps = {
        id: next(one.default for one in found.parameters if one.name == "steps")
        for id in ("acme/Z-Image-Turbo", "turbo-labs/Z-Image")
        for found in [distilled(task, "ZImagePipeline", id)]
    }
    assert steps == {"acme/Z-Image-Turbo": 8, "turbo-labs/Z-Image": 30}
