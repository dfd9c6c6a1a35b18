"""The `transformers.pipeline` that runs a model."""

from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, load_complete


def load_pipeline(
    manifest: dict[str, Any], directory: str, device: str, dtype: Any, **given: Any
) -> Any:
    """Load the task's pipeline from the files in `directory`, or from a `given` model."""
    import torch
    import transformers

    settings, task = manifest["run"], manifest["model"]["task"]

    def build(attention: str) -> Any:
        options = {"attn_implementation": attention, "use_safetensors": True}
        return transformers.pipeline(
            task,
            dtype=dtype,
            trust_remote_code=False,
            **(given or {"model": directory, "device": device, "model_kwargs": options}),
        )

    try:
        pipeline = load_complete(lambda: build(settings["attention"]))
    except ValueError:  # this attention is unsupported: use the reference's
        pipeline = load_complete(lambda: build("eager"))
    if pipeline.tokenizer is not None:
        check_vocabulary(pipeline.tokenizer, pipeline.model)
    if settings["compile"]:
        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        pipeline.model.compile(dynamic=True)
    return pipeline
