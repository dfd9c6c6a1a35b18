"""Text from text, by an encoder-decoder model."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.texts import check_texts


def rewrite(
    loaded: tuple[Any, Any],
    manifest: dict[str, Any],
    inputs: list[Any],
    parameters: dict[str, Any],
    prefix: str,
    **languages: Any,
) -> list[Any]:
    """Return one object per text, with the field that module.yaml names.

    `prefix` goes before each text; `languages` are further arguments of the generation.
    """
    import torch

    model, tokenizer = loaded
    check_texts(inputs)
    size, max_tokens = manifest["run"]["batchSize"], manifest["run"]["maxTokens"]
    max_tokens = min(max_tokens, tokenizer.model_max_length)
    texts = [prefix + text for text in inputs]
    for text in texts:
        if (used := len(tokenizer(text)["input_ids"])) > max_tokens:
            raise InvalidInput(
                f"inputs: {used} tokens are more than the {max_tokens} that the model reads"
            )
    [name] = manifest["outputs"][0]["fields"]
    options = {
        n: parameters[n] for n in ("max_new_tokens", "num_beams") if parameters[n] is not None
    }
    # More beams than the model's own take more memory, so fewer texts share a batch.
    usual = getattr(model.generation_config, "num_beams", None) or 1
    size = max(1, size * usual // max(options.get("num_beams", usual), usual))
    answers = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = model.generate(
                **batch.to(model.device), **options, **languages, do_sample=False
            )
        answers += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [{name: text.strip()} for text in answers]


def tasks_of(model: Any) -> dict[str, Any]:
    """Return the task-specific parameters in the model's config (T5)."""
    return getattr(model.config, "task_specific_params", None) or {}


def prefix_of(model: Any, task: str) -> str:
    """Return the prompt prefix that selects the model's task."""
    return (tasks_of(model).get(task) or {}).get("prefix") or ""
