"""A model's config.json, of any library, reduced to the fields that determine its sizes.

A config is untrusted: every value is checked before use, and the result is small.
"""

import json
import re
from typing import Any

import orjson

from models.tables import table

Config = dict[str, Any]

# The sizes that determine a model's memory.
SIZES = (
    *("image_size", "patch_size", "vocab_size", "head_dim", "multi_query"),
    *("max_encoder_position_embeddings", "conv_dim", "conv_stride"),
    *("max_position_embeddings", "n_positions", "n_ctx", "hidden_size", "d_model", "n_embd", "dim"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_attention_heads", "n_head"),
    *("n_heads", "num_key_value_heads", "intermediate_size", "n_inner", "hidden_dim"),
    *("decoder_layers", "num_decoder_layers", "decoder_attention_heads", "num_heads", "d_kv"),
    *("encoder_attention_heads", "encoder_ffn_dim", "d_ff", "embed_dim", "sliding_window"),
    *("attention_chunk_size", "kv_lora_rank", "qk_rope_head_dim", "new_decoder_architecture"),
    *("attn_layer_period", "attn_layer_offset", "sliding_window_pattern"),
    # Layers with full attention, if they differ from the others (Gemma 4).
    *("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"),
    *("num_kv_shared_layers", "max_source_positions", "max_target_positions"),
    # Sliding-window layers, and attention that shares its values or has narrower ones.
    *("swa_num_key_value_heads", "swa_head_dim", "use_sliding_window", "kv_channels"),
    *("v_head_dim", "attention_heads", "prompt_length", "is_decoder", "index_head_dim"),
    "num_decoder_attention_heads",
    # Recurrent layers (`states`).
    *("linear_num_heads", "linear_head_dim", "linear_num_key_heads", "linear_num_value_heads"),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "conv_L_cache"),
    *("mamba_d_state", "ssm_state_size", "state_size", "mamba_expand", "expand"),
    *("mamba_d_conv", "conv_kernel", "mamba_n_heads", "mamba_num_heads", "n_mamba_heads"),
    *("mamba_d_head", "mamba_head_dim", "mamba_headdim"),
    *("mamba_n_groups", "mamba_ngroups", "n_groups"),
)
# All fields that are read: the kind of model, and its sizes.
FIELDS = (
    *("architectures", "architecture", "model_type", "use_timm_backbone"),
    *SIZES,
    # The number of beams in generation; whether a text is written by the embeddings that read
    # it; the token that fills a batch.
    *("num_beams", "tie_word_embeddings", "pad_token_id"),
    # The tokenizer's class, and how it splits words.
    *("tokenizer_class", "word_tokenizer_type", "phonemize", "is_uroman"),
    # Components of diffusers pipelines.
    *("_class_name", "sample_size", "block_out_channels", "attention_head_dim", "force_upcast"),
    "guidance_embeds",
    # The number of a classifier's labels; it takes precedence over `id2label`, as in the library.
    "num_labels",
    # The data set of a classifier, in older configs.
    "finetuning_task",
)
# Fields that are looked up in tables; a value that is not text is dropped.
NAMES = frozenset(
    ("architecture", "model_type", "tokenizer_class", "word_tokenizer_type", "_class_name")
)
# The configs of a model's parts, which are reduced in the same way.
PARTS = (
    *("text_config", "vision_config", "audio_config", "vlm_config", "llm_config"),
    *("language_config", "thinker_config", "decoder", "encoder", "backbone_config"),
)
MAX_PART_DEPTH = 3
# Architectures whose layers from `max_window_layers` on have a sliding window, if it is in use.
WINDOWS_LAST = frozenset(("qwen2", "qwen3")) | {
    *("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
}
# Kinds of layers by the tokens they cache: all, a window, a chunk, or none but a state.
LAYER_KINDS = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")
# Layers of other names, by the kinds they contain; unknown ones cache all tokens.
ALSO: dict[str, tuple[str, ...]] = {
    "hybrid_sliding": ("sliding_attention",),
    "hybrid": ("full_attention", "linear_attention"),
    **dict.fromkeys(("mamba", "conv", "recurrent"), ("linear_attention",)),
    **dict.fromkeys(("moe", "mlp", "dummy"), ()),
}
# Fields of a composite config that hold the config of the text model.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
SIGHT_PARTS = ("vision_config", "encoder")
# Larger than any size of a model.
MAX_SIZE = 10_000_000
# Longer than any name of an architecture.
MAX_CHARACTERS = 128
MAX_ITEMS = 16
SURROGATE = re.compile("[\ud800-\udfff]")


def read(config: Config) -> Config:
    """Keep the fields of a config that `sizes` needs, and fill in the library's defaults."""
    return complete(reduce(config))


def parse(content: bytes) -> Any:
    """Parse JSON as Python's libraries do; None where they would fail.

    Python writes and reads Infinity, NaN and unpaired surrogates, which are not JSON: the config
    of every Mamba 2 has an Infinity.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError):
        return None


def reduce(config: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Keep the fields in FIELDS, recursively for PARTS, and the number of layers by kind."""
    kept = {key: config[key] for key in FIELDS if key in config and _is_kept(key, config[key])}
    stated = number(config, "num_labels")
    labels = config.get("id2label")
    if isinstance(labels, dict) and stated in (None, len(labels)):
        kept["num_labels"] = len(labels)
        if _is_small(list(labels.values())):
            kept["labels"] = list(labels.values())
    layers = layers_of(config)
    if layers is not None:
        kept["layer_types"] = count_layers(layers)
    if depth < MAX_PART_DEPTH:
        for name in PARTS:
            if isinstance(part := config.get(name), dict):
                kept[name] = reduce(part, depth + 1)
    return kept


def layers_of(config: dict[str, Any]) -> list[Any] | None:
    """Return the kinds of the layers, in the terms of the library that wrote the config.

    The last layers are left out if they reuse the caches of earlier ones.
    """
    for name in ("layer_types", "layers_block_type"):
        if isinstance(layers := config.get(name), list):
            shared = config.get("num_kv_shared_layers")
            shared = shared if isinstance(shared, int) and 0 < shared <= len(layers) else 0
            return layers[: len(layers) - shared]
    if isinstance(pattern := config.get("hybrid_override_pattern"), str):
        return ["full_attention"] * pattern.count("*") + ["mamba"] * pattern.count("M")
    if isinstance(places := config.get("attn_layer_indices"), list):
        layers = number(config, "num_hidden_layers") or len(places)
        full = min(len(places), layers)
        return ["full_attention"] * full + ["mamba"] * (layers - full)
    if isinstance(places := config.get("full_attn_idxs"), list):  # LFM2
        layers = number(config, "num_hidden_layers") or len(places)
        full = min(len(places), layers)
        return ["full_attention"] * full + ["conv"] * (layers - full)
    return _windowed_last(config)


def _windowed_last(config: dict[str, Any]) -> list[Any] | None:
    """Return the kinds of the layers if the last ones have a sliding window (Qwen); else None."""
    full, layers = config.get("max_window_layers"), number(config, "num_hidden_layers")
    if (
        str(config.get("model_type")) not in WINDOWS_LAST
        or config.get("use_sliding_window") is not True
        or number(config, "sliding_window") is None
        or layers is None
        or not isinstance(full, int)
    ):
        return None
    full = min(max(full, 0), layers)
    return ["full_attention"] * full + ["sliding_attention"] * (layers - full)


def count_layers(layers: list[Any]) -> dict[str, int]:
    """Count the layers of each kind in LAYER_KINDS."""
    counts = dict.fromkeys(LAYER_KINDS, 0)
    for name in layers:
        if isinstance(name, str):
            for kind in ALSO.get(name, (name if name in LAYER_KINDS else "full_attention",)):
                counts[kind] += 1
    return counts


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """Fill in the library's defaults for sizes that a config omits.

    Of derived sizes only `layer_types` is filled in: as a list, the pattern of the layers.
    """
    kind = config.get("model_type")
    usual = table()["configs"].get(kind, {}) if isinstance(kind, str) else {}
    names = usual.get("names", {})
    sizes = {**usual.get("sizes", {}), **{names.get(key, key): config[key] for key in config}}
    for name, default in usual.get("parts", {}).items():
        # A part's own config replaces all defaults for it. Qwen's first vision models have the text
        # model's sizes at the top level, next to the vision model's config.
        own = config.get(name) or default
        if name == "text_config" and name not in config and "num_hidden_layers" in config:
            own = {key: config[key] for key in (*SIZES, "layer_types") if key in config}
        sizes[name] = complete({"model_type": default["model_type"], **own})
    for name in config.keys() & (set(PARTS) - usual.get("parts", {}).keys()):
        sizes[name] = complete(config[name])
    return sizes


def _is_kept(key: str, value: Any) -> bool:
    if key in NAMES and not isinstance(value, str):
        return False
    return _is_small(value)


def _is_small(value: Any) -> bool:
    """Whether a value is small enough to be cached with the model."""
    if isinstance(value, list):
        return len(value) <= MAX_ITEMS and all(map(_is_short_or_a_number, value))
    return _is_short_or_a_number(value)


def _is_short_or_a_number(value: Any) -> bool:
    # A size of null is kept: it means something other than an omitted one.
    if isinstance(value, str):
        # Snapshots are shared as JSON, which has no unpaired surrogates.
        return len(value) <= MAX_CHARACTERS and not SURROGATE.search(value)
    return value is None or isinstance(value, int)


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


def number(config: Config, *names: str) -> int | None:
    """Return the first named field that holds a sensible number; configs are untrusted text."""
    for name in names:
        if size := _sensible(config.get(name)):
            return size
    return None


def _sensible(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value <= MAX_SIZE else None


def first(values: Any) -> int | None:
    return _sensible(values[0]) if isinstance(values, list) and values else None


def hidden_size(config: Config) -> int | None:
    return number(config, "hidden_size", "d_model", "n_embd", "dim", "embed_dim")
