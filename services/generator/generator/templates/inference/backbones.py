"""What is in a picture, by the models of timm."""

from typing import Any

from generator.templates.inference.module import read_image


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """The model over the files in `directory`, and what prepares its pictures."""
    import timm

    # Without its last layer a model answers with what it saw.
    headless = {} if manifest["model"]["task"] == "image-classification" else {"num_classes": 0}
    model = timm.create_model(f"local-dir:{directory}", pretrained=True, **headless)
    model = model.to(device, dtype).eval()
    settings = timm.data.resolve_model_data_config(model)
    if manifest["run"]["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model.compile(dynamic=True)
    return model, timm.data.create_transform(**settings, is_training=False)


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Per picture a list of {label, score}, best first, or one vector."""
    import torch

    model, prepare = loaded
    weight = next(model.parameters())
    size = manifest["run"]["batchSize"]
    pictures = [read_image(value) for value in inputs]
    made = []
    for start in range(0, len(pictures), size):
        batch = torch.stack([prepare(picture) for picture in pictures[start : start + size]])
        with torch.inference_mode():
            made.append(model(batch.to(weight.device, weight.dtype)).float().cpu())
    answers = torch.cat(made)
    if manifest["model"]["task"] != "image-classification":
        return list(answers.tolist())
    labels = name_labels(model)
    most = min(parameters["top_k"] or len(labels), len(labels))
    best = answers.softmax(-1).topk(most)
    return [
        [{"label": labels[index], "score": score} for index, score in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def name_labels(model: Any) -> list[str]:
    """As the model names them, else as the data set of its kind does, else by number."""
    import timm.data

    named = model.pretrained_cfg.get("label_names")
    if isinstance(named, (list, tuple)) and len(named) == model.num_classes:
        return [str(name) for name in named]
    subset = timm.data.infer_imagenet_subset(model)
    if subset:
        known = timm.data.ImageNetInfo(subset)
        return [known.index_to_description(index) for index in range(model.num_classes)]
    return [f"LABEL_{index}" for index in range(model.num_classes)]
