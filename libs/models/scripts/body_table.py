"""Read from the libraries' classes how a text model's tensors are named, as its files have them."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange

# Returns the model of a class's name, of default sizes and without memory, or an error.
Built = Callable[[str], Any]
# Begin of a layer's tensors: the name of the list, and the layer's number.
LAYER = re.compile(r"^(.*?)\.\d+\.")
# More labels than any default, and unlike any other size.
LABELS = 7919


def bodies(kinds: Iterable[str], bare: Callable[[str], str], built: Built) -> dict[str, Any]:
    """Return by `model_type` the names of a body's tensors, without the prefix of a head's class.

    `reads`: the names of the embeddings of the vocabulary, of which files have at least one; and
    whether they have `vocab_size` rows (`rows`).
    `layers`: the list that has `num_hidden_layers` layers, if there is one.
    """
    found = {}
    for kind in sorted(kinds):
        model = built(bare(kind))
        if isinstance(model, torch.nn.Module) and (reads := embeddings(model)):
            prefix, layers = model.base_model_prefix, layered(model.state_dict(), model.config)
            if not converted(model, [f"{prefix}.{name}" for name in reads]):
                size = getattr(model.config.get_text_config(), "vocab_size", None)
                has_all = model.get_input_embeddings().weight.shape[0] == size
                found[kind] = {"prefix": prefix, "reads": reads, "rows": has_all}
                if layers and not converted(model, [f"{prefix}.{layers}"], within=True):
                    found[kind]["layers"] = layers
    return found


def outputs(names: dict[str, list[str]], built: Built) -> dict[str, Any]:
    """Return by `model_type` the weights that write tokens, and whether they are tied by default.

    `names` are the classes of text generation.
    """
    found = {}
    for kind, [name, *_] in sorted(names.items()):
        model = built(name)
        if not isinstance(model, torch.nn.Module):
            continue
        writes = named(model, model.get_output_embeddings())
        inner = f"{model.base_model_prefix}."
        writes = [name for name in writes if not name.startswith(inner)]
        if len(writes) == 1 and not converted(model, writes):
            tied = bool(getattr(model.config, "tie_word_embeddings", False))
            found[kind] = {"writes": writes[0], "tied": tied}
    return found


def labelled(names: dict[str, list[str]]) -> dict[str, str]:
    """Return by `model_type` the weights of a class that have a row for each label."""
    found = {}
    for kind, [name, *_] in sorted(names.items()):
        try:
            chosen = getattr(transformers, name)
            with torch.device("meta"):
                model = chosen(chosen.config_class(num_labels=LABELS))
        except Exception:  # noqa: BLE001  (some have no default, and raise whatever they like)
            continue
        rows = [name for name, weight in model.named_parameters() if weight.shape[:1] == (LABELS,)]
        matrices = [name for name in rows if name.endswith(".weight")]
        if len(matrices) == 1 and not converted(model, matrices):
            found[kind] = matrices[0]
    return found


def embeddings(model: Any) -> list[str]:
    try:
        return named(model, model.get_input_embeddings())
    except (AttributeError, NotImplementedError):
        return []


def named(model: Any, layer: Any) -> list[str]:
    """Return every name of a layer's weight, if it has one; tied ones have several."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        return []
    names = {
        name for name, each in model.named_parameters(remove_duplicate=False) if each is weight
    }
    for target, source in model.all_tied_weights_keys.items():
        if {target, source} & names:
            names |= {target, source}
    return sorted(names)


def layered(names: Iterable[str], config: Any) -> str | None:
    """Return the name of the list that has as many members as the config names layers."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        if match := LAYER.match(name):
            rest = name[match.end(1) + 1 :]
            numbers.setdefault(match[1], set()).add(int(rest.partition(".")[0]))
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int):
        return None
    fitting = [name for name, found in numbers.items() if found == {*range(count)}]
    return fitting[0] if len(fitting) == 1 else None


def converted(model: Any, names: Iterable[str], *, within: bool = False) -> bool:
    """Return whether the library may rename such tensors, or move them, while it reads files.

    `within` also counts conversions of anything in a list that is named.
    """
    letters = [re.sub(r"\W", "", name) for name in names]
    for conversion in get_model_conversion_mapping(model, add_legacy=False):
        sources, targets = conversion.source_patterns, conversion.target_patterns
        if isinstance(conversion, PrefixChange) or any(text.startswith("^") for text in sources):
            return True
        for target in (re.sub(r"\W", "", text) for text in targets):
            if any(target in name or (within and name in target) for name in letters):
                return True
    return False
