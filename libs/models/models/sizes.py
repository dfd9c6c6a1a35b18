"""Memory that inference needs in addition to the weights, computed from a model's configs.

    cache        of a decoder (`models.cache`); each of the texts that the model weighs against each
                 other (beams) has its own
    logits       batch x vocabulary x 4: the last token's, where the model writes; every token's,
                 where it fills masks
    activations  batch x tokens x (8 x hidden + 2 x intermediate) x bytes: one layer's, since
                 inference keeps no other; with the reference attention also
                 batch x heads x tokens^2 x 4; the largest of the model's parts
    diffusion    the denoiser's, or the decoder's of pictures, whichever is larger, at the size that
                 the pipeline has by default (`models.pipelines`)

Sizes that neither the config nor the library gives are guessed from the weights, generously:
activations of a quarter of them per input, and the cache of a decoder that is 1,024 wide.
"""

import math
from dataclasses import dataclass

from models.cache import cache_bytes, image_tokens
from models.config import Config, first, hidden_size, number, sight_part, text_part
from models.dtypes import MIB
from models.pipelines import diffusion_bytes
from models.tables import table
from models.tasks import Task

# Longer than most inputs. A model's own limit may be 128k tokens, and each of them needs memory.
MAX_TOKENS = 8192
# A decoder's cache grows relative to its weights the narrower it is; large ones are at least this
# wide.
MIN_WIDTH = 1024
# The largest vocabularies in use.
MAX_VOCABULARY = 2**18
# Fields with the longest text in tokens; an encoder's own limit goes before (LED).
POSITIONS = ("max_encoder_position_embeddings", "max_position_embeddings", "n_positions", "n_ctx")
# The limit assumed for a model that names none.
USUAL_TOKENS = 2048
# Architectures whose positions begin after the padding token's id, which is 1.
SHIFTED = frozenset(
    ("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "longformer", "mpnet", "roberta")
) | {"lilt", "luke", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
# Numbers that MusicGen's audio decoder holds at once: 30 s at 32 kHz, four maps of 64 filters.
MUSIC = 30 * 32_000 * 4 * 64
# Points that the library's pipeline asks about at once, and masks of each.
POINTS_AT_ONCE, MASKS_PER_POINT = 64, 3
# Side in pixels of SAM's own images.
USUAL_MASK_SIDE = 1024
# Pixels of the largest picture that modules answer pixel by pixel; they shrink a larger one
# (`shrinking.py` of the generator's templates).
MAX_PIXELS = 2**20
# Segments that the library looks for at once: what its models have by default.
SEGMENTS, MASK_FORMERS = 100, frozenset(("mask2former", "maskformer"))
# Memory to provide, as a multiple of a measured peak: room for inputs unlike the measured ones.
HEADROOM = 1.2
# The largest number of beams that a caller may request.
MAX_BEAMS = 16


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes; `guessed` names the parts that were estimated without a size."""

    cache: int = 0
    logits: int = 0
    activations: int = 0
    guessed: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        return self.cache + self.logits + self.activations


def footprint(
    config: Config, task: Task, *, batch: int, tokens: int, width: int, eager: bool, weights: int
) -> Footprint:
    """Compute the memory that a batch needs in addition to the weights.

    Args:
        config: what `config.read`, or `config.complete`, makes of the model's own.
        task: the row.
        batch: inputs at once.
        tokens: of each input.
        width: bytes of one number.
        eager: whether attention writes out its matrix.
        weights: bytes; what is guessed is guessed from these.
    """
    if "denoiser" in config:
        return Footprint(activations=batch * diffusion_bytes(config, task, width))
    text = text_part(config)
    parts = [part for part in (text, sight_part(config)) if hidden_size(part)]
    composes = config.get("model_type") == "musicgen"
    writes = task.generates or composes or hears_and_writes(config, task)
    # Each beam has its own cache and logits; music is generated with and without its text at once,
    # for classifier-free guidance.
    times = 2 if composes else min(number(config, "num_beams") or 1, MAX_BEAMS)
    written = batch * times if writes else batch
    kept = cache_bytes(config, batch=written, tokens=tokens, width=width) if writes else 0
    words = number(text, "vocab_size")
    if words is None and (writes or task.every_logit):
        words, guessed = MAX_VOCABULARY, {"logits"}
    else:
        guessed = set()
    if kept is None:
        # A layer has 12 x width^2 weights, and caches 2 x width numbers per token.
        kept = written * tokens * weights // (6 * MIN_WIDTH)
        guessed.add("cache")
    if parts:
        activations = max(
            batch
            * activation_bytes(
                part,
                _tokens_in(part, text, tokens, task),
                width,
                eager=eager
                or (part.get("model_type") or config.get("model_type")) in table()["eager"],
            )
            for part in parts
        )
    else:
        activations = batch * max(weights // 4, 64 * MIB)
        guessed.add("activations")
    if task.takes == "audio":
        activations += batch * waves_bytes(config, tokens, width)
    if task.family == "mask_generation":
        activations += batch * masks_bytes(config)
    if task.family == "segmentation":
        activations += batch * segments_bytes(config)
    if composes:
        activations = max(activations, batch * MUSIC * width)
    return Footprint(
        cache=kept,
        logits=written * (words or 0) * 4 * (tokens if task.every_logit else 1),
        activations=activations,
        guessed=frozenset(guessed),
    )


def waves_bytes(config: Config, tokens: int, width: int) -> int:
    """Return the memory of the first convolution over raw samples: its output, twice."""
    channels, strides = first(config.get("conv_dim")), config.get("conv_stride")
    if not channels or not isinstance(strides, list) or not first(strides):
        return 0
    steps = [stride for stride in strides[1:] if isinstance(stride, int) and 0 < stride < 100]
    return 2 * tokens * math.prod(steps) * channels * width


def masks_bytes(config: Config) -> int:
    """Return the memory of the masks of one batch of points, before and after cropping."""
    side = number(sight_part(config), "image_size") or USUAL_MASK_SIDE
    return 2 * POINTS_AT_ONCE * MASKS_PER_POINT * side**2 * 4


def segments_bytes(config: Config) -> int:
    """Return the memory of two maps per label or segment, at the image's full size."""
    maps = number(config, "num_labels") or 2
    if config.get("model_type") in MASK_FORMERS:
        maps = max(maps, SEGMENTS)
    return 2 * maps * MAX_PIXELS * 4


def max_tokens_of(config: Config, task: Task) -> int | None:
    """Return the longest text that the model reads, in tokens; None if it names no limit."""
    if task.takes in {"image", "audio"}:
        return None
    return _positions(config, POSITIONS[:3])


def tokens_of(config: Config, task: Task) -> int:
    """Return the longest input of the module, in tokens (patches, if it takes only images)."""
    # Page retrieval reads the page as an image; for other questions the text has the limit.
    takes_text = task.texts and not task.reads_pictures
    if task.takes == "image" and not task.generates and not takes_text:
        return image_tokens(sight_part(config))
    text = text_part(config)
    # The audio has more tokens than its transcript.
    audio_positions = (
        number(text, "max_source_positions") if hears_and_writes(config, task) else None
    )
    return min(audio_positions or _positions(config, POSITIONS) or USUAL_TOKENS, MAX_TOKENS)


def _positions(config: Config, names: tuple[str, ...]) -> int | None:
    """Return how many tokens of a text have a position, by the first of these config fields."""
    positions = number(text_part(config), *names)
    shifted = str(config.get("model_type")) in SHIFTED
    return max(positions - 2, 1) if positions and shifted else positions


def hears_and_writes(config: Config, task: Task) -> bool:
    """Return whether the model is an audio encoder with a text decoder, like Whisper."""
    return task.transcribes and bool(number(config, "decoder_layers"))


def _tokens_in(part: Config, text: Config, tokens: int, task: Task) -> int:
    if part is not text:
        return image_tokens(part)
    # Some models process image and text with the same layers.
    both = task.texts and number(part, "patch_size")
    return tokens + image_tokens(part) if both else tokens


def activation_bytes(part: Config, tokens: int, width: int, *, eager: bool) -> int:
    hidden = hidden_size(part) or 0
    heads = number(part, "num_attention_heads", "encoder_attention_heads", "n_head", "n_heads")
    inner = number(part, "intermediate_size", "encoder_ffn_dim", "d_ff", "n_inner", "hidden_dim")
    size = tokens * (8 * hidden + 2 * (inner or 4 * hidden)) * width
    return size + (heads or number(part, "num_heads") or 1) * tokens**2 * 4 * eager
