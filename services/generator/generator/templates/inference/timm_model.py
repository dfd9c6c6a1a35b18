"""Loader of timm models, and their output for images."""

from typing import Any

from generator.templates.inference.images import read_image


def load_timm(
    manifest: dict[str, Any], directory: str, device: str, dtype: Any, **options: Any
) -> tuple[Any, Any]:
    """Load the model from the files in `directory`, and its image transform."""
    import timm

    model = timm.create_model(f"local-dir:{directory}", pretrained=True, **options)
    model = model.to(device, dtype).eval()
    settings = timm.data.resolve_model_data_config(model)
    if manifest["run"]["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model.compile(dynamic=True)
    return model, timm.data.create_transform(**settings, is_training=False)


def see(loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any]) -> Any:
    """Return the model's output, one row per image."""
    import torch

    model, prepare = loaded
    weight = next(model.parameters())
    size = manifest["run"]["batchSize"]
    pictures = [read_image(value) for value in inputs]
    outputs = []
    for start in range(0, len(pictures), size):
        batch = torch.stack([prepare(picture) for picture in pictures[start : start + size]])
        with torch.inference_mode():
            outputs.append(model(batch.to(weight.device, weight.dtype)).float().cpu())
    return torch.cat(outputs)
