"""Loads a model and its processor, for tasks that no pipeline serves."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, whole
from generator.templates.inference.packing import unpacked, unpacking


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """Load the model from the files in `directory`, and its processor if it has one."""
    import torch
    import transformers

    settings = manifest["run"]
    chosen = getattr(transformers, settings["class"])
    packed = unpacking(settings, directory, device)

    def build(attention: str) -> Any:
        return chosen.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            **packed,
        )

    try:
        model = whole(lambda: build(settings["attention"]))
    except ValueError:  # this attention is unsupported: use the reference's
        model = whole(lambda: build("eager"))
    model = unpacked(settings, model, dtype) if packed else model.to(device)
    model.eval()
    if settings["compile"]:
        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model.compile(dynamic=True)
    if "processor" not in settings:
        return model, None
    if model.config.model_type == "vision-encoder-decoder":  # two models without a common class
        pair = (transformers.AutoImageProcessor, transformers.AutoTokenizer)
        readers = tuple(reader.from_pretrained(directory) for reader in pair)
        check_vocabulary(readers[1])
        return model, readers
    reader = getattr(transformers, settings["processor"])
    processor = reader.from_pretrained(directory, trust_remote_code=False)
    if settings["processor"] == "AutoProcessor":
        check_vocabulary(getattr(processor, "tokenizer", processor))
    return model, processor
