"""Loads packed weights."""

from typing import Any


def unpacking(settings: dict[str, Any], directory: str, device: str) -> dict[str, Any]:
    """Return the options that load weights packed into fewer bits; none for others.

    The library unpacks them, but computes with those of bitsandbytes as they are.
    """
    import transformers

    if "packing" not in settings:
        return {}
    config = transformers.AutoConfig.from_pretrained(directory)
    if settings["packing"] != "bitsandbytes":
        config.quantization_config["dequantize"] = True
    return {"config": config, "device_map": {"": device}}


def unpacked(settings: dict[str, Any], model: Any, dtype: Any) -> Any:
    """Return the model in its dtype: some kinds are unpacked to bfloat16, whatever is asked for."""
    return model if settings["packing"] == "bitsandbytes" else model.to(dtype)
