"""Text generation by a pipeline, also from packed weights."""

from typing import Any

from generator.templates.inference.continuing import answer as answer
from generator.templates.inference.integers import load_integers
from generator.templates.inference.piping import load_pipeline
from generator.templates.inference.unpacking import load_packed


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the pipeline from the files in `directory`, whose weights may be packed."""
    packing = manifest["run"].get("packing")
    if packing is None:
        return load_pipeline(manifest, directory, device, dtype)
    read = load_integers if packing in ("awq", "gptq") else load_packed
    model = read(manifest, directory, device, dtype).eval()
    return load_pipeline(manifest, directory, device, dtype, model=model, tokenizer=directory)
