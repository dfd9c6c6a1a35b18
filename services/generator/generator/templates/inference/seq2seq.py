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
    **arguments: Any,
) -> list[Any]:
    """Return one object per text, with the field that module.yaml names.

    `prefix` goes before each text; `arguments` are the generation's, unless a parameter is given.
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
    given = {n: parameters[n] for n in ("max_new_tokens", "num_beams") if parameters[n] is not None}
    options = {**arguments, **given}
    # More beams than the model's own take more memory, so fewer texts share a batch.
    usual = getattr(model.generation_config, "num_beams", None) or 1
    size = max(1, size * usual // max(options.get("num_beams", usual), usual))
    answers = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = model.generate(**batch.to(model.device), **options, do_sample=False)
        answers += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [{name: text.strip()} for text in answers]


def tasks_of(model: Any) -> dict[str, Any]:
    """Return the task-specific parameters in the model's config (T5)."""
    return getattr(model.config, "task_specific_params", None) or {}


# Arguments of the generation that a config has for a task.
SETTINGS = ("num_beams", "min_length", "length_penalty", "no_repeat_ngram_size", "early_stopping")


def settings_of(model: Any, task: str) -> dict[str, Any]:
    """Return the arguments with which the model's authors generate for a task."""
    known = tasks_of(model).get(task) or {}
    return {name: known[name] for name in SETTINGS if name in known}


def prefix_of(model: Any, task: str) -> str:
    """Return the prompt prefix that selects the model's task."""
    return (tasks_of(model).get(task) or {}).get("prefix") or ""
