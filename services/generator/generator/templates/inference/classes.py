"""Loader of a model by its class."""

from typing import Any

from generator.templates.inference.checkpoint import load_complete


def load_model(manifest: dict[str, Any], directory: str, dtype: Any, **options: Any) -> Any:
    """Load the model from the files in `directory`, by the class that module.yaml names."""
    import transformers

    settings = manifest["run"]
    chosen = getattr(transformers, settings["class"])
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype, **options}

    def build(attention: str) -> Any:
        return chosen.from_pretrained(directory, attn_implementation=attention, **options)

    try:
        return load_complete(lambda: build(settings["attention"]))
    except ValueError:  # this attention is unsupported: use the reference's
        return load_complete(lambda: build("eager"))
