"""Text from text, by an encoder-decoder model."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput, check_texts
from generator.templates.inference.models import load as load


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one object per text, with the field that module.yaml names."""
    import torch

    model, tokenizer = loaded
    check_texts(inputs)
    size, most = manifest["run"]["batchSize"], manifest["run"]["maxTokens"]
    most = min(most, tokenizer.model_max_length)
    languages: dict[str, Any] = {}
    if "target_language" in parameters:
        prefix, languages = choose_languages(model, tokenizer, parameters)
    else:
        prefix = prefix_of(model, manifest["model"]["task"])
    texts = [prefix + text for text in inputs]
    for text in texts:
        if (used := len(tokenizer(text)["input_ids"])) > most:
            raise InvalidInput(
                f"inputs: {used} tokens are more than the {most} that the model reads"
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
    """Return the words that precede a text and tell the model its task."""
    return (tasks_of(model).get(task) or {}).get("prefix") or ""


def choose_languages(
    model: Any, tokenizer: Any, parameters: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the prefix of the text, and the arguments that choose the output language."""
    known = tasks_of(model)
    source, target = parameters.get("source_language"), parameters.get("target_language")
    if hasattr(tokenizer, "src_lang"):
        return "", between(model, tokenizer, source, target)
    pairs = sorted(name for name in known if name.startswith("translation_"))
    pair = f"translation_{source}_to_{target}" if source or target else (pairs or [""])[0]
    if not (source or target) or pair in pairs:
        return prefix_of(model, pair), {}
    raise InvalidInput(
        "source_language, target_language: this model "
        + (f"knows {', '.join(pairs)}" if pairs else "translates one pair; leave them out")
    )


def between(model: Any, tokenizer: Any, source: str | None, target: str | None) -> dict[str, Any]:
    """Return a multilingual model's arguments; it writes English if no language is named."""
    for name, value in (("source_language", source), ("target_language", target)):
        if value and not knows(tokenizer, value):
            raise InvalidInput(f"{name}: the model does not know {value[:32]!r}")
    if source:
        tokenizer.src_lang = source
    usual = model.generation_config
    apart = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    # Some always begin with their only output language.
    is_named = usual.forced_bos_token_id or usual.decoder_start_token_id not in (None, *apart)
    if not target and not is_named:  # the names in NLLB, mBART and M2M100
        english = ("eng_Latn", "en_XX", "en")
        target = next((name for name in english if knows(tokenizer, name)), None)
    if not target:
        return {}
    if hasattr(tokenizer, "get_lang_id"):  # M2M100
        return {"forced_bos_token_id": tokenizer.get_lang_id(target)}
    return {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(target)}


def knows(tokenizer: Any, language: str) -> bool:
    codes = getattr(tokenizer, "lang_code_to_id", None)
    return language in (codes or tokenizer.all_special_tokens)
