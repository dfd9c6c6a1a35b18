"""Defaults of diffusers' pipelines: sizes, and guidance.

The tests compare the sizes with the pinned library's own defaults.
"""

from dataclasses import dataclass

from models.config import Config, first, hidden_size, number
from models.tasks import Task

# Defaults for pipelines that name no size: an image's side in pixels.
USUAL_SIDE = 1024
# Channels of a decoder's last level, if its config does not give them.
USUAL_CHANNELS = 128


@dataclass(frozen=True)
class Pipeline:
    """Defaults of one pipeline's call.

    Attributes:
        width, height: of the output, in pixels; None: as its config says.
        frames: of the output.
        token: side in pixels of one token of a transformer.
        stride: frames that one token covers.
        passes: texts and their opposites that go through the denoiser at once. Some pipelines
            call it twice in sequence instead.
        maps: of twice its last level's channels that the image decoder holds.
        upcasts: the image decoder computes in float32 (`force_upcast`, its class's default).
        decodes_at_once: the decoder holds three maps of the whole video, at a quarter of its side;
            others decode a few frames at a time.
        bfloat16: the library's own examples compute in bfloat16; float16 overflows.
    """

    width: int | None = None
    height: int | None = None
    frames: int = 1
    token: int = 16
    stride: int = 4
    passes: int = 2
    maps: int = 4
    upcasts: bool = False
    decodes_at_once: bool = False
    bfloat16: bool = False


WAN = Pipeline(832, 480, 81, passes=1, bfloat16=True)
LTX = Pipeline(704, 512, 161, token=32, stride=8, decodes_at_once=True, bfloat16=True)
UPCASTING = Pipeline(upcasts=True)
PIPELINES = {
    "WanPipeline": WAN,
    "WanImageToVideoPipeline": WAN,
    "WanVideoToVideoPipeline": WAN,
    "LTXPipeline": LTX,
    "LTXImageToVideoPipeline": LTX,
    "FluxPipeline": Pipeline(1024, 1024, passes=1, bfloat16=True),
    "ZImagePipeline": Pipeline(1024, 1024, bfloat16=True),
    # Its decoder is one of videos: 696 MiB in float32 at 256 x 256 pixels, measured.
    "QwenImagePipeline": Pipeline(1024, 1024, passes=1, maps=12, bfloat16=True),
    "StableDiffusionXLPipeline": UPCASTING,
    "StableDiffusionXLImg2ImgPipeline": UPCASTING,
}


def pipeline_of(config: Config) -> Pipeline:
    """Return the defaults of the pipeline whose class the config names."""
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    return PIPELINES.get(name, Pipeline()) if isinstance(name, str) else Pipeline()


def diffusion_bytes(config: Config, task: Task, width: int) -> int:
    """Return the memory of one image or video in a pipeline's denoiser and decoder, in bytes."""
    usual = pipeline_of(config)
    denoiser, vae = config["denoiser"], config.get("vae") or {}
    levels = vae.get("block_out_channels")
    scale = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else 8
    sample = number(denoiser, "sample_size")
    side = sample * (scale if vae else 1) if sample else USUAL_SIDE
    pixels = (usual.width or side) * (usual.height or side)
    if channels := first(denoiser.get("block_out_channels")):
        # The first level, which has the most pixels: four maps of twice its channels.
        seen = pixels // (scale**2 if vae else 1) * channels * 8 * width
    else:
        moments = (usual.frames - 1) // usual.stride + 1 if task.returns.has("video") else 1
        heads = number(denoiser, "num_attention_heads") or 16
        hidden = heads * (number(denoiser, "attention_head_dim") or 64)
        hidden = max(hidden, hidden_size(denoiser) or 0)
        seen = pixels // usual.token**2 * moments * 16 * hidden * width
    return max(usual.passes * seen, _decoded(usual, vae, pixels, width) if vae else 0)


def _decoded(usual: Pipeline, vae: Config, pixels: int, width: int) -> int:
    """Return the memory of the image decoder: maps of twice its last level's channels."""
    channels = first(vae.get("block_out_channels")) or USUAL_CHANNELS
    if usual.decodes_at_once:
        return pixels // 16 * usual.frames * channels * 3 * width
    if usual.upcasts and vae.get("force_upcast") is not False:
        width = max(width, 4)
    return pixels * channels * 2 * usual.maps * width
