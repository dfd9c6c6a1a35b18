"""Text, continued token by token by a model with an adapter."""

from typing import Any

from generator.templates.inference.classes import load_model
from generator.templates.inference.continuing import answer as answer
from generator.templates.inference.piping import load_pipeline


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the base from `directory`, and merge the adapter in its folder into it."""
    import peft

    base = load_model(manifest, directory, dtype).to(device)
    adapted = peft.PeftModel.from_pretrained(base, f"{directory}/adapter")
    model = adapted.merge_and_unload().eval()
    return load_pipeline(manifest, directory, device, dtype, model=model, tokenizer=directory)
