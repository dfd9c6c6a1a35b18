"""Loads a `transformers.pipeline`."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, whole
from generator.templates.inference.packing import unpacked, unpacking


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the pipeline of the module's task from the files in `directory`."""
    import torch
    import transformers

    settings, task = manifest["run"], manifest["model"]["task"]
    packed = unpacking(settings, directory, device)

    def build(attention: str) -> Any:
        return transformers.pipeline(
            task,
            model=directory,
            dtype=dtype,
            trust_remote_code=False,
            model_kwargs={"attn_implementation": attention, "use_safetensors": True},
            **(packed or {"device": device}),
        )

    try:
        pipeline = whole(lambda: build(settings["attention"]))
    except ValueError:  # this attention is unsupported: use the reference's
        pipeline = whole(lambda: build("eager"))
    if packed:
        pipeline.model = unpacked(settings, pipeline.model, dtype)
    if pipeline.tokenizer is not None:
        check_vocabulary(pipeline.tokenizer)
    if settings["compile"]:
        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        pipeline.model.compile(dynamic=True)
    return pipeline
