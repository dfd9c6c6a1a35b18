"""Reasons to refuse a model whose tensors are not those of its architecture.

The libraries fill what is missing with random numbers, and fail at what has another shape: both
are seen in the headers already. Only names that every model of an architecture has are compared
(`bodies`, `outputs`, `labels` and `heads` of models/architectures.json).
"""

from typing import Any

from common.quantities import counted
from generator.reasons import refuse
from generator.snapshot import Snapshot
from generator.weights import Weights
from models.config import number
from models.tables import table
from models.tasks import Task
from models.tasks.sentences import SETFIT

# Weights that write a text, of classes that may tie them to the embeddings: files have either.
TIED = frozenset(
    ("cls.predictions.decoder.weight", "decoder.weight", "embed_out.weight", "lm_head.weight")
) | {
    *("generator_lm_head.weight", "lm_head.decoder.weight", "lm_loss.weight"),
    *("output_projection.weight", "pred_layer.proj.weight", "predictions.decoder.weight"),
    "vocab_projector.weight",
}
WRITERS = ("ForCausalLM", "ForMaskedLM", "ForSeq2SeqLM")
WHOLE = "the model's complete files, as its library saves them"


def check_tensors(snapshot: Snapshot, task: Task, library: str) -> None:
    """Raise ModelRefused if the weights lack a part of the model, or have one of another size."""
    weights, config = snapshot.weights, snapshot.config
    if library == "timm" or weights is None or weights.names is None or config.get("packing"):
        return
    kind = str(config.get("model_type"))
    if library != SETFIT and not snapshot.layout.is_generative_ranker:
        _check_head(kind, weights.names, task)
        _check_labels(kind, config, weights, task)
    if body := table()["bodies"].get(kind):
        ties = any(name.endswith(WRITERS) for name in task.auto_classes)
        _check_embeddings(kind, config, weights, body, ties=ties)
        _check_layers(kind, config, weights, body)
    if task.family == "text_generation" and (ends := table()["outputs"].get(kind)):
        _check_output(kind, config, weights.names, ends)


def _check_head(kind: str, known: frozenset[str], task: Task) -> None:
    """Refuse a model without the head of its task, which would be initialised at random."""
    heads = table()["heads"].get(task.head_tag, {})
    missing = [
        [name for name in head if not any(f".{kept}".endswith(f".{name}") for kept in known)]
        for head in heads.get(kind, ())
    ]
    if missing and all(missing):
        raise refuse(
            f"the model's weights lack {missing[0][0]}, which {task.tag} is answered with: it was "
            "not trained for that",
            "incomplete",
            "a model that was",
        )


def _check_labels(kind: str, config: dict[str, Any], weights: Weights, task: Task) -> None:
    name = table()["labels"].get(task.head_tag, {}).get(kind)
    rows, count = weights.rows.get(name or ""), config.get("num_labels")
    if rows is not None and isinstance(count, int) and rows != count:
        raise refuse(
            f"the model's {name} has {counted(rows, 'row')}, and config.json names "
            f"{counted(count, 'label')}",
            "config",
            "a config.json with the labels that the model was trained for",
        )


def _check_embeddings(
    kind: str, config: dict[str, Any], weights: Weights, body: dict[str, Any], *, ties: bool
) -> None:
    assert weights.names is not None
    names = [f"{place}{name}" for name in body["reads"] for place in ("", f"{body['prefix']}.")]
    found = [name for name in names if name in weights.names]
    if ties and not found and _are_tied(kind, config):
        found = sorted(TIED & weights.names)
    if not found:
        raise refuse(
            f"the model's weights lack {body['reads'][-1]}, which every {kind} model has: they are "
            "another model's, or named as another library names them",
            "incomplete",
            WHOLE,
        )
    size = _size(kind, config, "vocab_size") if body["rows"] else None
    for name in found:
        if len(body["reads"]) > 1 and "decoder." in name:
            continue  # which may have a vocabulary of its own (Marian)
        if size and weights.rows.get(name, size) != size:
            raise refuse(
                f"the model's {name} has {counted(weights.rows[name], 'row')}, and config.json "
                f"names {counted(size, 'token')} (vocab_size)",
                "config",
                "a config.json with the size of the model's vocabulary",
            )


def _check_layers(
    kind: str, config: dict[str, Any], weights: Weights, body: dict[str, Any]
) -> None:
    count = _size(kind, config, "num_hidden_layers")
    if "layers" not in body or not count or not weights.layers:
        return
    places = (body["layers"], f"{body['prefix']}.{body['layers']}")
    found = {layer for place in places for layer in weights.layers.get(place, ())}
    # Counted, not listed: the config of a stranger may name ten million.
    present = sum(layer < count for layer in found)
    if present < count:
        absent = next(layer for layer in range(count) if layer not in found)
        raise refuse(
            f"the model's weights lack {count - present:,} of the {count:,} layers that config.json"
            f" names (num_hidden_layers), such as {places[1]}.{absent}",
            "incomplete",
            WHOLE,
        )


def _check_output(
    kind: str, config: dict[str, Any], known: frozenset[str], ends: dict[str, Any]
) -> None:
    if not _are_tied(kind, config) and ends["writes"] not in known:
        raise refuse(
            f"the model's weights lack {ends['writes']}, which writes its answers, and its "
            "config.json does not tie it to the embeddings (tie_word_embeddings)",
            "incomplete",
            WHOLE,
        )


def _are_tied(kind: str, config: dict[str, Any]) -> bool:
    usual = table()["outputs"].get(kind, {}).get("tied", True)
    return config.get("tie_word_embeddings", usual) is not False


def _size(kind: str, config: dict[str, Any], name: str) -> int | None:
    """Return a size from a config, by the architecture's own name for it or the usual one."""
    own = table()["configs"].get(kind, {}).get("names", {}).get(name, name)
    return number(config, own, name)
