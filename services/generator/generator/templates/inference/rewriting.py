"""A text from a text: summaries and translations."""

from typing import Any

from generator.templates.inference.module import InvalidInput, check_texts


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """One {summary_text} or {translation_text} per text."""
    import torch

    model, tokenizer = loaded
    check_texts(inputs)
    size, most = manifest["run"]["batchSize"], manifest["run"]["maxTokens"]
    most = min(most, tokenizer.model_max_length)
    prefix, languages = choose_languages(model, tokenizer, manifest["model"]["task"], parameters)
    texts = [prefix + text for text in inputs]
    for text in texts:
        if (used := len(tokenizer(text)["input_ids"])) > most:
            raise InvalidInput(
                f"inputs: {used} tokens are more than the {most} that the model reads"
            )
    name = manifest["model"]["task"].replace("summarization", "summary") + "_text"
    given = {n: parameters[n] for n in ("max_new_tokens", "num_beams") if parameters[n] is not None}
    # More beams than the model's own take more memory: then fewer texts go through it at once.
    usual = getattr(model.generation_config, "num_beams", None) or 1
    size = max(1, size * usual // max(given.get("num_beams", usual), usual))
    answers = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = model.generate(**batch.to(model.device), **given, **languages, do_sample=False)
        answers += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [{name: text.strip()} for text in answers]


def choose_languages(
    model: Any, tokenizer: Any, task: str, parameters: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """What goes before the text, and what tells the model the language to write in."""
    # Models of several tasks (T5) are told by words at the beginning, which their config names.
    known = getattr(model.config, "task_specific_params", None) or {}
    source, target = parameters.get("source_language"), parameters.get("target_language")
    if task == "summarization" or not (source or target):
        return (known.get(task) or {}).get("prefix") or "", {}
    if named := known.get(f"translation_{source}_to_{target}"):
        return named.get("prefix") or "", {}
    if not hasattr(tokenizer, "src_lang"):
        pairs = [name for name in known if name.startswith("translation_")]
        raise InvalidInput(
            "source_language, target_language: this model "
            + (
                f"knows {', '.join(sorted(pairs))}"
                if pairs
                else "translates one pair; leave them out"
            )
        )
    codes = getattr(tokenizer, "lang_code_to_id", None)
    if source:
        check_language(tokenizer, codes, "source_language", source)
        tokenizer.src_lang = source
    if not target:
        return "", {}
    check_language(tokenizer, codes, "target_language", target)
    if hasattr(tokenizer, "get_lang_id"):  # M2M100
        return "", {"forced_bos_token_id": tokenizer.get_lang_id(target)}
    return "", {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(target)}


def check_language(tokenizer: Any, codes: Any, name: str, value: str) -> None:
    named = (
        value in codes
        if codes
        else tokenizer.convert_tokens_to_ids(value)
        not in (
            None,
            tokenizer.unk_token_id,
        )
    )
    if not named:
        raise InvalidInput(f"{name}: the model does not know {value[:32]!r}")
