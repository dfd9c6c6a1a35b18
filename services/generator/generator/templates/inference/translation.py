"""Text in another language."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.models import load as load
from generator.templates.inference.seq2seq import (
    prefix_of,
    rewrite,
    settings_of,
    tasks_of,
)


def answer(
    loaded: tuple[Any, Any], manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {translation_text} per text."""
    prefix, arguments = choose_languages(*loaded, parameters)
    return rewrite(loaded, manifest, inputs, parameters, prefix, **arguments)


def choose_languages(
    model: Any, tokenizer: Any, parameters: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the text's prefix and the arguments that select the output language."""
    known = tasks_of(model)
    source, target = parameters.get("source_language"), parameters.get("target_language")
    if hasattr(tokenizer, "src_lang"):
        return "", between(model, tokenizer, source, target)
    if codes := getattr(tokenizer, "supported_language_codes", None):  # Marian, to several
        return towards(codes, source, target), {}
    pairs = sorted(name for name in known if name.startswith("translation_"))
    pair = f"translation_{source}_to_{target}" if source or target else (pairs or [""])[0]
    if not (source or target) or pair in pairs:
        return prefix_of(model, pair), settings_of(model, pair)
    raise InvalidInput(
        "source_language, target_language: this model "
        + (f"knows {', '.join(pairs)}" if pairs else "translates one pair; leave them out")
    )


def towards(codes: list[str], source: str | None, target: str | None) -> str:
    """Return the token that selects a Marian model's output language, as the text's prefix."""
    if source or (target and f">>{target}<<" not in codes):
        named = "source_language" if source else "target_language"
        known = ", ".join(sorted(code.strip("<>") for code in codes))
        raise InvalidInput(f"{named}: this model takes only a target_language: {known}")
    return f">>{target}<< " if target else ""


def between(model: Any, tokenizer: Any, source: str | None, target: str | None) -> dict[str, Any]:
    """Return a multilingual model's arguments; the default output language is English."""
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
