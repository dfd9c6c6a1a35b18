"""One vector per image, by a timm model."""

from typing import Any

from generator.templates.inference.timm_model import load_timm, see


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    # Without its last layer, a model answers with its features.
    return load_timm(manifest, directory, device, dtype, num_classes=0)


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], _: dict[str, Any]
) -> list[Any]:
    """Return one vector per image."""
    return list(see(loaded, manifest, inputs).tolist())
