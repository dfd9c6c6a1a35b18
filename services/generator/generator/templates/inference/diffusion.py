"""Diffusers pipelines, run once per input."""

from collections.abc import Iterable, Iterator
from typing import Any

from generator.templates.inference.checkpoint import check_vocabulary, load_complete
from generator.templates.inference.inputs import InvalidInput


def load(manifest: dict[str, Any], directory: str, device: str, dtype: Any) -> Any:
    """Load the pipeline that model_index.json in `directory` names."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    pipeline = load_complete(
        lambda: diffusers.DiffusionPipeline.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    ).to(device)
    for part in pipeline.components.values():
        if hasattr(part, "get_vocab"):
            check_vocabulary(part)
    pipeline.set_progress_bar_config(disable=True)
    if manifest["run"]["compile"]:
        import torch

        torch._dynamo.config.suppress_errors = True  # without a compiler: slower, not broken
        for name in ("unet", "transformer"):
            if hasattr(pipeline, name):
                getattr(pipeline, name).compile()
    return pipeline


def arguments(pipeline: Any, subject: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Build the pipeline's arguments. Raises InvalidInput for an unknown parameter."""
    import inspect

    names = {"steps": "num_inference_steps", "guidance": "guidance_scale", "frames": "num_frames"}
    values: dict[str, Any] = {
        names.get(name, name): parameter
        for name, parameter in parameters.items()
        if parameter is not None and not (name == "prompt" and parameter == "")
    }
    known = inspect.signature(pipeline.__call__).parameters
    if "prompt" in known and "prompt" not in subject:
        values.setdefault("prompt", "")
    if "true_cfg_scale" in known and known["true_cfg_scale"].default > 1:
        # Its guidance needs a text to lead away from: a blank will do, says its docstring.
        values.setdefault("negative_prompt", " ")
        if "guidance_scale" in values:
            values["true_cfg_scale"] = values.pop("guidance_scale")
    for name in values:
        if name not in known:
            shown = next(
                (
                    public_name
                    for public_name, pipeline_name in names.items()
                    if pipeline_name == name
                ),
                name,
            )
            raise InvalidInput(f"{shown}: this model has no such parameter")
    values |= subject
    if "video" in subject or "num_frames" in known:
        values["output_type"] = "np"
    if "frame_size" in known:  # Shap-E returns images unless asked for the shape
        values["output_type"] = "mesh"
    return values


def each(pipeline: Any, subjects: Iterable[Any], parameters: dict[str, Any]) -> Iterator[Any]:
    """Run the pipeline once per subject, a dictionary of pipeline arguments.

    Each has a random generator of its own; a `number` is its seed.
    """
    import torch

    seed = torch.initial_seed()
    for subject in subjects:
        generator = torch.Generator("cpu").manual_seed(seed)
        options = arguments(pipeline, subject, parameters)
        if "number" in options:
            generator.manual_seed(options.pop("number"))
        yield pipeline(generator=generator, **options)
