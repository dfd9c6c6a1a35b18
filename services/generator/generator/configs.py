"""The JSON files in a model's folder: refused if they bring code, else cut down to what is used."""

import json
from typing import Any

import orjson

from common.errors import ModelRefused
from generator.libraries import table
from generator.reasons import refuse

# Attention code that is part of the library; any other name is fetched from the Hub and run.
ATTENTION = {None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
CODE = {"auto_map", "custom_pipelines", "custom_generate"}
DEEPEST = 32
QUANTIZED = (
    "the model is quantized: its weights are packed into fewer bits than modules compute in",
    "quantized",
    "the model that it was made from",
)
# The sizes that a model's needs follow from.
SIZES = (
    *("image_size", "patch_size", "vocab_size", "head_dim", "multi_query"),
    *("max_position_embeddings", "n_positions", "n_ctx", "hidden_size", "d_model", "n_embd", "dim"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_attention_heads", "n_head"),
    *("n_heads", "num_key_value_heads", "intermediate_size", "n_inner", "hidden_dim"),
    *("decoder_layers", "num_decoder_layers", "decoder_attention_heads", "num_heads", "d_kv"),
    *("encoder_attention_heads", "encoder_ffn_dim", "d_ff", "embed_dim", "sliding_window"),
    *("attention_chunk_size", "kv_lora_rank", "qk_rope_head_dim", "new_decoder_architecture"),
    *("attn_layer_period", "attn_layer_offset", "sliding_window_pattern"),
    # Of layers that see everything, where those differ from the others (Gemma 4).
    *("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"),
    *("num_kv_shared_layers", "max_source_positions", "max_target_positions"),
)
# What config.json is read for: what the model is, and those.
FIELDS = (
    *("architectures", "architecture", "model_type", "use_timm_backbone"),
    *SIZES,
    # How many texts are weighed against each other while one is written.
    "num_beams",
    # Of the tokenizer: which it is, and what it splits words with.
    *("tokenizer_class", "word_tokenizer_type", "phonemize", "is_uroman"),
    # Of the parts of diffusers' pipelines.
    *("_class_name", "sample_size", "block_out_channels", "attention_head_dim"),
)
# The configs of a model's parts, of which the same is kept.
PARTS = (
    *("text_config", "vision_config", "audio_config", "vlm_config", "llm_config"),
    *("language_config", "thinker_config", "decoder", "encoder", "backbone_config"),
)
DEEPEST_PART = 3
LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
# Other names for layers that keep as few tokens, and those that keep none. Layers of any other
# kind are taken for such as keep all.
ALSO = {"hybrid_sliding": "sliding_attention", "reference_sliding_attention": "full_attention"}
WITHOUT = frozenset(("linear_attention", "mamba", "conv", "recurrent", "moe", "mlp", "dummy"))
# Longer than any name of an architecture.
MOST_CHARACTERS = 128
MOST_ITEMS = 16
# Four times those of the largest tokenizer_config.json that is known; a comma is between any two.
MOST_VALUES = 250_000


def read(name: str, content: bytes) -> dict[str, Any]:
    """What `reduce` leaves. Raises ModelRefused: not an object, or it brings code."""
    if content.count(b",") > MOST_VALUES:
        raise ModelRefused(f"{name} has more than {MOST_VALUES:,} values", reason="config")
    config = parse(content)
    if not isinstance(config, dict):
        raise ModelRefused(f"{name} is not a JSON object", reason="config")
    check(name, config)
    return reduce(config)


def parse(content: bytes) -> Any:
    """As the libraries read it; None for what they do not.

    Python writes Infinity, NaN and half characters, and reads them, though they are no JSON: the
    config of every Mamba 2 has an Infinity.
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
    """The fields of FIELDS and, of its parts, the same; layers are counted by what they are."""
    kept = {key: config[key] for key in FIELDS if key in config and _is_small(config[key])}
    layers = layers_of(config)
    if layers is not None:
        kept["layer_types"] = count(layers)
    if depth < DEEPEST_PART:
        for name in PARTS:
            if isinstance(part := config.get(name), dict):
                kept[name] = reduce(part, depth + 1)
    return kept


def layers_of(config: dict[str, Any]) -> list[Any] | None:
    """The kinds of its layers, in the words of whichever library it was written for.

    Without the last, where those look at what layers before them keep.
    """
    for name in ("layer_types", "layers_block_type"):
        if isinstance(layers := config.get(name), list):
            shared = config.get("num_kv_shared_layers")
            shared = shared if isinstance(shared, int) and 0 < shared <= len(layers) else 0
            return layers[: len(layers) - shared]
    if isinstance(pattern := config.get("hybrid_override_pattern"), str):
        return ["full_attention"] * pattern.count("*")
    if isinstance(places := config.get("attn_layer_indices"), list):
        return ["full_attention"] * len(places)
    return None


def count(layers: list[Any]) -> dict[str, int]:
    """How many there are of each of LAYERS."""
    named = [ALSO.get(kind, kind) for kind in layers if isinstance(kind, str)]
    found = {kind: named.count(kind) for kind in LAYERS}
    found["full_attention"] += sum(kind not in LAYERS and kind not in WITHOUT for kind in named)
    return found


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """With the sizes that the library takes for such a model where its config says nothing.

    What is derived of others is not among them, but `layer_types`: as a list, the pattern that its
    layers follow.
    """
    kind = config.get("model_type")
    usual = table()["configs"].get(kind, {}) if isinstance(kind, str) else {}
    names = usual.get("names", {})
    found = {**usual.get("sizes", {}), **{names.get(key, key): config[key] for key in config}}
    for name, whole in usual.get("parts", {}).items():
        # A part of which anything is said has none of the whole's own sizes for it. Qwen's first
        # models that see say the sizes of what writes beside those of what sees.
        given = config.get(name) or whole
        if name == "text_config" and name not in config and "num_hidden_layers" in config:
            given = {key: config[key] for key in (*SIZES, "layer_types") if key in config}
        found[name] = complete({"model_type": whole["model_type"], **given})
    for name in config.keys() & (set(PARTS) - usual.get("parts", {}).keys()):
        found[name] = complete(config[name])
    return found


def check(name: str, config: Any, depth: int = 0) -> None:
    """Refuse keys that make the library fetch or run code of the model's author."""
    if depth > DEEPEST:
        raise ModelRefused(f"{name} is nested too deeply", reason="config")
    if isinstance(config, list):
        for item in config:
            check(name, item, depth + 1)
    if isinstance(config, dict):
        for key, value in config.items():
            _check_field(name, key, value)
            check(name, value, depth + 1)


def _check_field(name: str, key: str, value: Any) -> None:
    # CVE-2026-4372: _attn_implementation_internal runs code whatever trust_remote_code says.
    if key in CODE or (key.startswith("_") and key.endswith("_internal")):
        raise ModelRefused(
            f"{name} asks for code of the model's author to be run, which no module does",
            reason="custom-code",
        )
    if key.lstrip("_") in {"attn_implementation", "experts_implementation"} and not (
        value is None or (isinstance(value, str) and value in ATTENTION)
    ):
        raise ModelRefused(f"{name} asks for attention code from the Hub", reason="custom-code")
    if key in {"quantization_config", "compression_config"} and value:
        raise refuse(*QUANTIZED)
    if key == "quantization" and isinstance(value, dict):  # as MLX writes it
        raise refuse(*QUANTIZED)


def _is_small(value: Any) -> bool:
    """Kept for as long as the model is remembered, so an owner must not choose how much."""
    if isinstance(value, list):
        return len(value) <= MOST_ITEMS and all(map(_is_short_or_a_number, value))
    return _is_short_or_a_number(value)


def _is_short_or_a_number(value: Any) -> bool:
    # A size of null is not left out: it has another meaning than the one that is taken else.
    if isinstance(value, str):
        return len(value) <= MOST_CHARACTERS
    return value is None or isinstance(value, int)
