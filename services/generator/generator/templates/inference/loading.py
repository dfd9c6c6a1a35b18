"""Loader of a `transformers.pipeline`."""

from typing import Any

from generator.templates.inference.piping import load_pipeline


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the pipeline of the module's task from the files in `directory`."""
    return load_pipeline(manifest, directory, device, dtype)
