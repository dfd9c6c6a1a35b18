"""Parser of adapter_config.json, PEFT's description of an adapter and its base."""

from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from common.contracts.address import REVISION
from common.errors import ModelRefused
from generator import configs
from generator.reasons import refuse
from models.config import parse

MERGED = "the two merged into one, and pushed as safetensors"


def read(content: bytes) -> dict[str, Any]:
    """Parse adapter_config.json into the base's id and revision. Raises ModelRefused."""
    config = parse(content)
    if not isinstance(config, dict):
        raise ModelRefused("adapter_config.json is not a JSON object", reason="config")
    configs.check("adapter_config.json", config)
    if config.get("peft_type") != "LORA" or config.get("megatron_config"):
        raise refuse("the model is an adapter of another kind than LoRA", "adapter", MERGED)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise refuse("the model is an adapter for another task than text", "adapter", MERGED)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    try:
        validate_repo_id(str(base))
    except HFValidationError:
        base = None
    if not isinstance(base, str) or "/" not in base:
        raise refuse(
            "adapter_config.json does not name a model of the Hub as its base", "adapter", MERGED
        )
    if not isinstance(revision, str):
        revision = None
    if revision and not REVISION.fullmatch(revision):
        raise refuse(
            "adapter_config.json names no branch, tag or commit as its base's revision",
            "adapter",
            MERGED,
        )
    return {"base": base, "revision": revision}
