"""The JSON files in a model's folder: refused if they bring code, else cut down to what is used."""

from typing import Any

import orjson

from common.errors import ModelRefused

# Attention code that is part of the library; any other name is fetched from the Hub and run.
ATTENTION = {None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
CODE = {"auto_map", "custom_pipelines", "custom_generate"}
DEEPEST = 32
# What config.json is read for: what the model is, and the sizes that its needs follow from.
FIELDS = (
    *("architectures", "architecture", "model_type"),
    *("image_size", "patch_size", "vocab_size", "head_dim"),
    *("max_position_embeddings", "n_positions", "n_ctx", "hidden_size", "d_model", "n_embd", "dim"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_attention_heads", "n_head"),
    *("n_heads", "num_key_value_heads", "intermediate_size", "n_inner", "hidden_dim"),
)
# Longer than any name of an architecture.
MOST_CHARACTERS = 128
MOST_ITEMS = 16


def read(name: str, content: bytes) -> dict[str, Any]:
    """The fields of FIELDS. Raises ModelRefused: not an object, or it brings code."""
    try:
        config = orjson.loads(content)
    except orjson.JSONDecodeError:
        config = None
    if not isinstance(config, dict):
        raise ModelRefused(f"{name} is not a JSON object", reason="config")
    check(name, config)
    return {key: config[key] for key in FIELDS if _is_small(config.get(key))}


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
    if key == "quantization_config" and value:
        raise ModelRefused(
            "the model is quantized, which no module runs yet; use the original model",
            reason="quantized",
        )


def _is_small(value: Any) -> bool:
    """Kept for as long as the model is remembered, so an owner must not choose how much."""
    if isinstance(value, list):
        return len(value) <= MOST_ITEMS and all(map(_is_small, value))
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= MOST_CHARACTERS)
