"""Read from the libraries' classes which parts stay in float32, and which lack fused attention."""

from collections.abc import Callable
from typing import Any

import diffusers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

# Returns the classes of a `model_type`.
Classes = Callable[[str], list[Any]]


def kept_in_float32(classes_of: Classes) -> dict[str, dict[str, list[str]]]:
    """Return the parts that are kept in float32, by `model_type` or diffusers' class."""
    kept = {}
    for kind in sorted(CONFIG_MAPPING_NAMES):
        found = {
            "float16": names_in(classes_of(kind), "_keep_in_fp32_modules"),
            "half": names_in(classes_of(kind), "_keep_in_fp32_modules_strict"),
        }
        if any(found.values()):
            kept[kind] = found
    for name in sorted(dir(diffusers)):
        if name.endswith(("Model", "Model2D", "Transformer3DModel")):
            try:
                found_names = names_in([getattr(diffusers, name)], "_keep_in_fp32_modules")
            except (ImportError, RuntimeError):
                continue
            if found_names:
                kept[name] = {"float16": [], "half": found_names}
    return kept


def names_in(chosen: list[Any], attribute: str) -> list[str]:
    lists = [getattr(each, attribute, None) for each in chosen]
    return sorted({name for names in lists if isinstance(names, list | set) for name in names})


def without_sdpa(classes_of: Classes) -> list[str]:
    """Return the models that always compute the whole attention matrix, even if asked otherwise."""
    return sorted(
        kind
        for kind in CONFIG_MAPPING_NAMES
        if (chosen := classes_of(kind)) and not any(each._supports_sdpa for each in chosen)
    )
