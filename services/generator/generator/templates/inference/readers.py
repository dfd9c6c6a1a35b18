"""Loader of a model's processor."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary


def with_processor(manifest: dict[str, Any], directory: str, model: Any) -> tuple[Any, Any]:
    """Return the model, ready to answer, and its processor if it has one."""
    import torch
    import transformers

    settings = manifest["run"]
    model.eval()
    if settings["compile"]:
        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        model.compile(dynamic=True)
    if "processor" not in settings:
        return model, None
    if model.config.model_type == "vision-encoder-decoder":  # two models without a common class
        pair = (transformers.AutoImageProcessor, transformers.AutoTokenizer)
        readers = tuple(reader.from_pretrained(directory) for reader in pair)
        check_vocabulary(readers[1], model.decoder)
        return model, readers
    reader = getattr(transformers, settings["processor"])
    processor = reader.from_pretrained(directory, trust_remote_code=False)
    if settings["processor"] == "AutoProcessor":
        check_vocabulary(getattr(processor, "tokenizer", processor), model)
    return model, processor
