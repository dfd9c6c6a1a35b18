"""Loader of a model and its processor, for tasks that no pipeline serves."""

from typing import Any

from generator.templates.inference.classes import load_model
from generator.templates.inference.readers import with_processor


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """Load the model from the files in `directory`, and its processor if it has one."""
    model = load_model(manifest, directory, dtype).to(device)
    return with_processor(manifest, directory, model)
