"""Labels of an image, by a timm model."""

from typing import Any

from generator.templates.inference.timm_model import load_timm, see


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    return load_timm(manifest, directory, device, dtype)


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return a list of {label, score} per image, best first."""
    answers = see(loaded, manifest, inputs)
    labels = name_labels(loaded[0])
    count = min(parameters["top_k"] or len(labels), len(labels))
    best = answers.softmax(-1).topk(count)
    return [
        [{"label": labels[index], "score": score} for index, score in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def name_labels(model: Any) -> list[str]:
    """Return the label names: the model's own, else its data set's, else numbers."""
    import timm.data

    named = model.pretrained_cfg.get("label_names")
    if isinstance(named, (list, tuple)) and len(named) == model.num_classes:
        return [str(name) for name in named]
    subset = timm.data.infer_imagenet_subset(model)
    if subset:
        known = timm.data.ImageNetInfo(subset)
        return [known.index_to_description(index) for index in range(model.num_classes)]
    return [f"LABEL_{index}" for index in range(model.num_classes)]
