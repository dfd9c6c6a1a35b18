"""Loader of weights that are packed into fewer bits."""

from typing import Any

from generator.templates.inference.classes import load_model


def load_packed(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the model from packed weights in `directory`, by the class that module.yaml names.

    The library unpacks most kinds itself, and computes with those of bitsandbytes as they are.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    kept = manifest["run"]["packing"] == "bitsandbytes"
    if not kept:
        config.quantization_config["dequantize"] = True
    model = load_model(manifest, directory, dtype, config=config, device_map={"": device})
    # Some kinds are unpacked to bfloat16, whatever is asked for.
    return model if kept else model.to(device, dtype)
