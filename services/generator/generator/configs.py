"""A model's JSON files: refused if they load code, otherwise reduced to the fields used."""

import re
from typing import Any

from common.errors import ModelRefused
from generator.reasons import refuse
from models import packing
from models.config import parse, reduce
from models.origins import SAVED

# Attention code that is part of the library; any other name is fetched from the Hub and run.
ATTENTION = {None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
CODE = {"auto_map", "custom_pipelines", "custom_generate"}
# Files whose `auto_map` is optional: the libraries ignore it for architectures they implement.
OFFERS = ("config.json", "tokenizer_config.json")
MAX_DEPTH = 32
# Fields that describe packed weights; MLX writes `quantization`.
PACKED = ("quantization_config", "compression_config", "quantization")
# Twice as many as in the largest known config, counted by commas.
MAX_CONFIG_VALUES = 100_000


def read(name: str, content: bytes) -> dict[str, Any]:
    """Read and reduce a config. Raises ModelRefused if it is not an object, or loads code."""
    if content.count(b",") > MAX_CONFIG_VALUES:
        raise ModelRefused(f"{name} has more than {MAX_CONFIG_VALUES:,} values", reason="config")
    config = parse(content)
    if not isinstance(config, dict):
        raise ModelRefused(f"{name} is not a JSON object", reason="config")
    offered = name.rpartition("/")[2] in OFFERS and bool(config.pop("auto_map", None))
    # Modules unpack the weights of a model as a whole only, not those of a pipeline's part.
    packed = _packing(config) if name == "config.json" else {}
    check(name, config)
    added = _added_tokens(config) if name.endswith("tokenizer_config.json") else {}
    return reduce(config) | ({"own_code": True} if offered else {}) | packed | added


def _added_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """Return the largest number that a tokenizer's config gives to a token."""
    added = config.get("added_tokens_decoder")
    keys = added if isinstance(added, dict) else {}
    numbers = [int(key) for key in keys if re.fullmatch("[0-9]{1,8}", key)]
    return {"max_token": max(numbers)} if numbers else {}


def _packing(config: dict[str, Any]) -> dict[str, Any]:
    """Remove the description of packed weights from a config; return its kind."""
    written = config.pop("quantization_config", None)
    return {"packing": packing.read(written)} if written else {}


def quantized(
    title: str | None = None, help: str = "the model that it was made from", tag: str = "its"
) -> ModelRefused:
    """Build the refusal of packed weights; `title` is the name of their kind, if known."""
    kind = f" ({title})" if title else ""
    return refuse(
        f"the model is quantized{kind}: its weights are packed in a way that {tag} modules do not "
        "load",
        "quantized",
        help,
    )


def check(name: str, config: Any, depth: int = 0) -> None:
    """Refuse keys that make the library fetch or run code of the model's author."""
    if depth > MAX_DEPTH:
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
        raise refuse(
            f"{name} requires code of the model's author, which modules do not run",
            "custom-code",
            SAVED,
        )
    if key.lstrip("_") in {"attn_implementation", "experts_implementation"} and not (
        value is None or (isinstance(value, str) and value in ATTENTION)
    ):
        raise refuse(
            f"{name} requires attention code from the Hub, which modules do not run",
            "custom-code",
            SAVED,
        )
    if key in PACKED and (isinstance(value, dict) if key == "quantization" else value):
        raise quantized()
