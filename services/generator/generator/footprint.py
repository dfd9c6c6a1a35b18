"""The memory that computing takes beside the weights, from the sizes that a model's configs name.

    cache        of a decoder, as transformers keeps it: per layer with attention
                 2 x key/value heads x head size x tokens x batch x bytes, or with latent
                 attention (rank + rotary size) in place of the first three; a layer that looks
                 back over a window keeps no more tokens than that, one that is recurrent none; a
                 decoder that looks at an encoder keeps as much again for the encoder's tokens; each
                 of the texts that the model weighs against each other (beams) has its own
    logits       batch x vocabulary x 4: the last token's, where the model writes; every token's,
                 where it fills masks
    activations  batch x tokens x (8 x hidden + 2 x intermediate) x bytes: one layer's, since
                 inference keeps no other; with the reference attention also
                 batch x heads x tokens^2 x 4; the largest of the model's parts
    diffusion    the denoiser's for the text and its opposite at once, or the decoder's of pictures,
                 whichever is larger: four maps of its first level at the picture's full size

Where neither a model's config nor the library says its sizes, they are guessed from the weights,
upwards: activations of a quarter of them per input; a cache as of a decoder that is 1,024 wide.
"""

from dataclasses import dataclass
from typing import Any

from generator import configs
from generator.tasks import Task

MIB = 2**20
# Longer than most inputs; a model's own limit may be 128k tokens, and each of them takes memory.
MOST_TOKENS = 8192
# The narrower a decoder, the more it keeps for each of its weights; large ones are no narrower.
NARROWEST = 1024
# The largest vocabularies of today.
LARGEST_VOCABULARY = 2**18
# Where a model names no limit.
USUAL_TOKENS = 2048
# These count positions from after the padding token's id, which is 1.
SHIFTED = frozenset(
    ("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "longformer", "mpnet", "roberta")
) | {"xlm-roberta", "xlm-roberta-xl", "xmod"}
IMAGE_TOKENS = 1024
# Numbers that MusicGen's decoder of sounds has at once: 30 s of 32 kHz, four maps of 64 filters.
MUSIC = 30 * 32_000 * 4 * 64
# As many as a caller may ask for.
MOST_BEAMS = 16
# Of Gemma 4's layers that look at all tokens, where the config leaves it out.
GLOBAL_HEAD = 512
# Where the config of a model of several parts has that of the part that reads and writes text.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
SIGHT_PARTS = ("vision_config", "encoder")
# Sides in pixels of a picture by a model that names no size of its own, and frames of a video.
USUAL_SIDE = 1024
USUAL_FRAMES = 81
# Pixels of a picture per side of what a video's or a flow model's transformer sees as one token.
TOKEN_SIDE = 16

Config = dict[str, Any]


@dataclass(frozen=True)
class Footprint:
    """In bytes; `guessed` names those that follow from no size of the model."""

    cache: int = 0
    logits: int = 0
    activations: int = 0
    guessed: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        return self.cache + self.logits + self.activations


def of(
    config: Config, task: Task, *, batch: int, tokens: int, width: int, eager: bool, weights: int
) -> Footprint:
    """For a batch of inputs of so many tokens, computed in numbers of `width` bytes.

    `config` is what `configs.complete` makes of the model's own.
    """
    if "denoiser" in config:
        return Footprint(activations=batch * diffusion(config, task, width))
    text = text_part(config)
    parts = [part for part in (text, sight_part(config)) if _hidden(part)]
    composes = config.get("model_type") == "musicgen"
    writes = task.generates or composes or hears_and_writes(config, task)
    # Each of the texts that are weighed against each other has a cache and logits of its own; music
    # is made for its text and for none, at once.
    times = 2 if composes else min(whole(config, "num_beams") or 1, MOST_BEAMS)
    written = batch * times if writes else batch
    kept = cache(config, batch=written, tokens=tokens, width=width) if writes else 0
    words = whole(text, "vocab_size")
    if words is None and (writes or _fills(task)):
        words, guessed = LARGEST_VOCABULARY, {"logits"}
    else:
        guessed = set()
    if kept is None:
        # A layer has 12 x width^2 weights, and keeps 2 x width numbers per token.
        kept = written * tokens * weights // (6 * NARROWEST)
        guessed.add("cache")
    if parts:
        activations = max(
            batch * _activations(part, _tokens_in(part, text, tokens, task), width, eager=eager)
            for part in parts
        )
    else:
        activations = batch * max(weights // 4, 64 * MIB)
        guessed.add("activations")
    if composes:
        activations = max(activations, batch * MUSIC * width)
    return Footprint(
        cache=kept,
        logits=written * (words or 0) * 4 * (tokens if _fills(task) else 1),
        activations=activations,
        guessed=frozenset(guessed),
    )


def tokens_of(config: Config, task: Task) -> int:
    """The longest input that the module takes, in tokens (patches, for an image alone)."""
    # A page is searched for as a picture; what else is asked about one is a text that has a limit.
    asked = task.texts and task.family != "searching"
    if task.takes == "image" and not task.generates and not asked:
        return image_tokens(sight_part(config))
    text = text_part(config)
    # What it hears is longer than what it writes.
    heard = whole(text, "max_source_positions") if hears_and_writes(config, task) else None
    most = heard or whole(text, "max_position_embeddings", "n_positions", "n_ctx") or USUAL_TOKENS
    if str(config.get("model_type")) in SHIFTED:
        most = max(most - 2, 1)
    return min(most, MOST_TOKENS)


def hears_and_writes(config: Config, task: Task) -> bool:
    """Whether it is an encoder of sounds with a decoder of texts, as Whisper is."""
    return task.name == "automatic-speech-recognition" and bool(whole(config, "decoder_layers"))


def image_tokens(config: Config) -> int:
    image, patch = whole(config, "image_size"), whole(config, "patch_size")
    return (image // patch) ** 2 + 1 if image and patch else IMAGE_TOKENS


def cache(config: Config, *, batch: int, tokens: int, width: int) -> int | None:
    """Keys and values of a decoder's tokens, and of the encoder's where it has one.

    None where the config does not say how many layers and heads there are.
    """
    text = text_part(config)
    layers = whole(text, "decoder_layers", "num_decoder_layers", "num_hidden_layers", "n_layer")
    layers = layers or whole(text, "n_layers", "num_layers")
    heads = whole(
        text, "decoder_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads"
    )
    hidden = _hidden(text)
    if not layers or not heads or not hidden:
        return None
    head = whole(text, "head_dim", "attention_head_dim", "d_kv") or max(hidden // heads, 1)
    # Falcon's later models share keys too, but keep them once for each head.
    one = text.get("multi_query") is True and not text.get("new_decoder_architecture")
    shared = 1 if one else whole(text, "num_key_value_heads") or heads
    latent, rope = whole(text, "kv_lora_rank"), whole(text, "qk_rope_head_dim")
    each = latent + rope if latent and rope else 2 * shared * head
    written = min(tokens, whole(text, "max_target_positions") or tokens)
    far, near = _kept_tokens(text, layers, written)
    reads = config.get("model_type") in ("t5", "musicgen")
    if reads or whole(text, "decoder_layers", "num_decoder_layers"):
        far += layers * tokens
    elif "decoder" in config:
        far += layers * image_tokens(sight_part(config))
    return (_each_far(text, each, shared) * far + each * near) * width * batch


def _each_far(text: Config, each: int, shared: int) -> int:
    """Numbers per token of a layer that looks at all tokens, where that has sizes of its own."""
    usual = GLOBAL_HEAD if str(text.get("model_type")).startswith("gemma4") else None
    if not (own := whole(text, "global_head_dim") or usual):
        return each
    if text.get("attention_k_eq_v") is True:
        shared = whole(text, "num_global_key_value_heads") or shared
    return 2 * shared * own


def _kept_tokens(text: Config, layers: int, tokens: int) -> tuple[int, int]:
    """Of all layers together: of those that look at all tokens, and of those with a window.

    Layers without attention keep none.
    """
    window = min(whole(text, "sliding_window", "attention_chunk_size") or tokens, tokens)
    # A window of n looks at n tokens, the newest among them, of which n - 1 are kept.
    near = window - 1 if window < tokens else tokens
    kinds = text.get("layer_types")
    if not isinstance(kinds, dict) and (every := whole(text, "attn_layer_period")):
        # The others have no attention.
        return len(range(whole(text, "attn_layer_offset") or 0, layers, every)) * tokens, 0
    if isinstance(kinds, list):  # a pattern: `configs.complete`
        layers = max(layers - (whole(text, "num_kv_shared_layers") or 0), 0)
        if every := whole(text, "sliding_window_pattern"):
            full = layers // every
            kinds = {"full_attention": full, "sliding_attention": layers - full}
        else:
            times, rest = divmod(layers, len(kinds))
            once, more = configs.count(kinds), configs.count(kinds[:rest])
            kinds = {kind: times * once[kind] + more[kind] for kind in once}
    if not isinstance(kinds, dict):
        return 0, layers * near
    windowed = kinds.get("sliding_attention", 0) + kinds.get("chunked_attention", 0)
    return int(kinds.get("full_attention", 0) * tokens), int(windowed * near)


def diffusion(config: Config, task: Task, width: int) -> int:
    """For one picture or video, by a pipeline's denoiser and its decoder of pictures."""
    denoiser, vae = config["denoiser"], config.get("vae") or {}
    levels = vae.get("block_out_channels")
    scale = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else 8
    sample = whole(denoiser, "sample_size")
    side = sample * (scale if vae else 1) if sample else USUAL_SIDE
    if channels := _first(denoiser.get("block_out_channels")):
        # Of the first level, where there are most pixels: four maps of twice its channels.
        seen = (side // (scale if vae else 1)) ** 2 * channels * 8 * width
    else:
        frames = (USUAL_FRAMES // 4 + 1) if task.answers.startswith("For each input {video") else 1
        tokens = (side // TOKEN_SIDE) ** 2 * frames
        heads = whole(denoiser, "num_attention_heads") or 16
        hidden = heads * (whole(denoiser, "attention_head_dim") or 64)
        seen = tokens * 16 * hidden * width
    # Videos are decoded a few frames at a time.
    decoded = side**2 * (_first(levels) or 128) * 2 * 4 * width if vae else 0
    return max(2 * seen, decoded)


def text_part(config: Config) -> Config:
    inner = config.get("vlm_config")
    if isinstance(inner, dict):
        config = inner
    for name in TEXT_PARTS:
        if isinstance(part := config.get(name), dict):
            return text_part(part) if name == "thinker_config" else part
    return config


def sight_part(config: Config) -> Config:
    inner = config.get("vlm_config")
    if isinstance(inner, dict):
        config = inner
    for name in SIGHT_PARTS:
        if isinstance(part := config.get(name), dict):
            return part
    return config


def whole(config: Config, *names: str) -> int | None:
    """The first of these that is a sensible number; configs are anyone's text."""
    for name in names:
        if number := _sensible(config.get(name)):
            return number
    return None


def _first(values: Any) -> int | None:
    return _sensible(values[0]) if isinstance(values, list) and values else None


def _sensible(value: Any) -> int | None:
    number = isinstance(value, int) and not isinstance(value, bool)
    return value if number and 0 < value <= 10_000_000 else None


def _hidden(config: Config) -> int | None:
    return whole(config, "hidden_size", "d_model", "n_embd", "dim", "embed_dim")


def _fills(task: Task) -> bool:
    return task.name == "fill-mask"


def _tokens_in(part: Config, text: Config, tokens: int, task: Task) -> int:
    if part is not text:
        return image_tokens(part)
    # Some read a picture and a text with the same layers.
    both = task.texts and whole(part, "patch_size")
    return tokens + image_tokens(part) if both else tokens


def _activations(part: Config, tokens: int, width: int, *, eager: bool) -> int:
    hidden = _hidden(part) or 0
    heads = whole(part, "num_attention_heads", "encoder_attention_heads", "n_head", "n_heads")
    inner = whole(part, "intermediate_size", "encoder_ffn_dim", "d_ff", "n_inner", "hidden_dim")
    size = tokens * (8 * hidden + 2 * (inner or 4 * hidden)) * width
    return size + (heads or whole(part, "num_heads") or 1) * tokens**2 * 4 * eager
