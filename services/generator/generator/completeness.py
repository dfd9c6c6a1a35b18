"""Reasons to refuse a model whose tensors are not those of its architecture.

The libraries fill what is missing with random numbers, and fail at what has another shape: both
are seen in the headers already. Only names that every model of an architecture has are compared
(`bodies`, `outputs`, `labels` and `heads` of models/architectures.json).
"""

from typing import Any

from common.contracts.generation import Check
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
# Architectures whose embeddings have no row that is set aside for the padding of a batch.
UNPADDED = frozenset(
    ("bloom", "blt", "codegen", "cpmant", "ctrl", "esmc", "falcon", "falcon_mamba", "funnel")
) | {
    *("gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gptj"),
    *("ibert", "longt5", "lxmert", "mamba", "mamba2", "mpnet", "mpt", "mt5", "openai-gpt"),
    *("reformer", "rwkv", "switch_transformers", "t5", "umt5", "xlnet", "xlstm"),
}
WRITERS = ("ForCausalLM", "ForMaskedLM", "ForSeq2SeqLM")
COMPLETE_FILES = "the model's complete files, as its library saves them"


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
        _check_padding(kind, config)
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
            COMPLETE_FILES,
        )
    size = size_of(kind, config, "vocab_size") if body["rows"] else None
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


def _check_padding(kind: str, config: dict[str, Any]) -> None:
    """Refuse a model that its library does not load, since no row is there for the padding."""
    size, pad = size_of(kind, config, "vocab_size"), number(config, "pad_token_id")
    if kind not in UNPADDED and size and pad and pad >= size:
        raise refuse(
            f"config.json names {pad} as the model's pad_token_id, and {counted(size, 'token')} "
            f"(vocab_size), which are numbered up to {size - 1}: its library does not load it",
            "config",
            "a config.json whose pad_token_id is one of the model's tokens, or null",
        )


def check_added_tokens(snapshot: Snapshot) -> list[Check]:
    """Warn if the tokenizer has tokens that the weights have no row for."""
    config, weights = snapshot.config, snapshot.weights
    kind = str(config.get("model_type"))
    body = table()["bodies"].get(kind)
    if weights is None or body is None:
        return []
    names = [f"{place}{name}" for name in body["reads"] for place in ("", f"{body['prefix']}.")]
    rows = max((weights.rows.get(name, 0) for name in names), default=0)
    last = max((read.get("max_token", 0) for read in snapshot.tokenizers.values()), default=0)
    if not rows or last < rows:
        return []
    message = (
        f"the model's tokenizer numbers its tokens up to {last}, and its weights have "
        f"{counted(rows, 'row')} for them: the module rejects a text with a token beyond those"
    )
    return [Check(name="tokenizer", outcome="warning", message=message)]


def _check_layers(
    kind: str, config: dict[str, Any], weights: Weights, body: dict[str, Any]
) -> None:
    count = size_of(kind, config, "num_hidden_layers")
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
            COMPLETE_FILES,
        )


def _check_output(
    kind: str, config: dict[str, Any], known: frozenset[str], ends: dict[str, Any]
) -> None:
    if not _are_tied(kind, config) and ends["writes"] not in known:
        raise refuse(
            f"the model's weights lack {ends['writes']}, which writes its answers, and its "
            "config.json does not tie it to the embeddings (tie_word_embeddings)",
            "incomplete",
            COMPLETE_FILES,
        )


def _are_tied(kind: str, config: dict[str, Any]) -> bool:
    usual = table()["outputs"].get(kind, {}).get("tied", True)
    return config.get("tie_word_embeddings", usual) is not False


def size_of(kind: str, config: dict[str, Any], name: str) -> int | None:
    """Return a size from a config, by the architecture's own name for it or the usual one."""
    own = table()["configs"].get(kind, {}).get("names", {}).get(name, name)
    return number(config, own, name)
