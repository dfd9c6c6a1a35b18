"""A model that lacks a part, or has one of the wrong size, is refused by its headers."""

import json
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from common.errors import ModelRefused
from generator import completeness, weights
from generator import configs as generated
from hub import families, lifelike
from models import config as configs
from models.tables import table
from models.tasks import LIBRARIES

sys.path.insert(0, str(Path(__file__).parents[3] / "libs/models/scripts"))
import tiny

TASKS = LIBRARIES["transformers"]
Tensors = dict[str, torch.Tensor]
# Larger ones, of an architecture that cannot be made small, take too long to write.
MAX_PARAMETERS = 8_000_000


def rows_of(tensors: Tensors) -> dict[str, int]:
    return weights.rows_of({name: tensor.shape for name, tensor in tensors.items()})


def check(config: dict[str, Any], tensors: Tensors, task: str) -> None:
    header = weights.Header(
        {},
        weights.kinds(tensors),
        layers=weights.layers_of(tensors),
        rows=rows_of(tensors),
    )
    snapshot: Any = SimpleNamespace(
        config=configs.read(config),
        weights=weights.total([header], 0),
        layout=SimpleNamespace(is_generative_ranker=False),
    )
    completeness.check_tensors(snapshot, TASKS[task], "transformers")


def classes() -> Iterator[tuple[str, str, str]]:
    """Yield the architectures whose tensors are compared, each with a task and its class."""
    known = table()
    for task, name in (
        ("text-generation", "CausalLM"),
        ("text-classification", "SequenceClassification"),
        ("feature-extraction", ""),
    ):
        mapping = getattr(transformers, f"AutoModelFor{name}" if name else "AutoModel")
        for kind, found in mapping._model_mapping._model_mapping.items():
            described = {*known["bodies"], *known["outputs"], *known["labels"].get(task, {})}
            if kind in known["served"][task] and kind in described:
                yield kind, task, found if isinstance(found, str) else found[0]


def saved(make: Any, folder: Path) -> tuple[dict[str, Any], Tensors]:
    make(folder)
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "model.safetensors")


MODELS = [
    (families.bert_classifier, "text-classification"),
    (families.bert_tagger, "token-classification"),
    (families.bert_encoder, "feature-extraction"),
    (families.llama_generator, "text-generation"),
    (families.vit_classifier, "image-classification"),
    (lifelike.t5, "summarization"),
    (lifelike.marian, "translation"),
    (lifelike.biogpt, "text-generation"),
]


@pytest.mark.parametrize(("make", "task"), MODELS)
def test_a_model_that_its_library_saved_is_complete(make: Any, task: str, tmp_path: Path) -> None:
    config, tensors = saved(make, tmp_path)
    check(config, tensors, task)


@pytest.mark.parametrize(
    ("make", "task", "ending", "message"),
    [
        (families.bert_classifier, "text-classification", "classifier.weight", "lack classifier"),
        (families.bert_classifier, "text-classification", "word_embeddings.weight", "every bert"),
        (families.llama_generator, "text-generation", "embed_tokens.weight", "every llama model"),
        (families.llama_generator, "text-generation", "lm_head.weight", "which writes its answers"),
    ],
)
def test_a_model_without_one_of_its_parts_is_refused(
    make: Any, task: str, ending: str, message: str, tmp_path: Path
) -> None:
    config, tensors = saved(make, tmp_path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(ending)}
    assert len(kept) < len(tensors)
    with pytest.raises(ModelRefused, match=message) as caught:
        check(config, kept, task)
    assert caught.value.details["reason"] == "incomplete"


def test_a_model_with_a_tied_output_layer_needs_no_weights_for_it(tmp_path: Path) -> None:
    config, tensors = saved(families.llama_generator, tmp_path)
    del tensors["lm_head.weight"]
    check({**config, "tie_word_embeddings": True}, tensors, "text-generation")


@pytest.mark.parametrize(
    ("make", "task", "name"),
    [
        (families.llama_generator, "text-generation", "model.embed_tokens.weight"),
        (lifelike.t5, "summarization", "shared.weight"),
    ],
)
def test_tied_weights_may_be_saved_by_either_of_their_names(
    make: Any, task: str, name: str, tmp_path: Path
) -> None:
    config, tensors = saved(make, tmp_path)
    tensors["lm_head.weight"] = tensors.pop(name)
    check({**config, "tie_word_embeddings": True}, tensors, task)
    for fields, other in (({"tie_word_embeddings": False}, task), ({}, "feature-extraction")):
        with pytest.raises(ModelRefused, match=r"every .* model has"):
            check({**config, **fields}, tensors, other)


def test_a_decoder_may_have_another_vocabulary_than_its_encoder(tmp_path: Path) -> None:
    config, tensors = saved(lifelike.marian, tmp_path)
    shared = tensors.pop("model.shared.weight")
    tensors["model.encoder.embed_tokens.weight"] = shared
    tensors["model.decoder.embed_tokens.weight"] = shared[:-2]
    check(config, tensors, "translation")
    with pytest.raises(ModelRefused, match=r"model\.encoder\.embed_tokens\.weight has"):
        check({**config, "vocab_size": 7}, tensors, "translation")


def test_the_number_of_labels_takes_precedence_over_their_names(tmp_path: Path) -> None:
    config, tensors = saved(families.bert_classifier, tmp_path)
    rows = len(tensors["classifier.weight"])
    names = {str(place): f"{place}" for place in range(rows + 1)}
    check({**config, "id2label": names, "num_labels": rows}, tensors, "text-classification")


def test_matrices_of_the_same_name_in_different_folders_are_not_compared() -> None:
    files = [
        weights.Header({}, frozenset(), rows={"embeddings.weight": rows, "other.weight": 3})
        for rows in (5, 7, 7)
    ]
    assert weights.total(files, 0).rows == {"other.weight": 3}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("make", "task"), [MODELS[0], MODELS[2], MODELS[3]])
def test_a_model_without_one_of_its_layers_is_refused(
    make: Any, task: str, layer: int, tmp_path: Path
) -> None:
    config, tensors = saved(make, tmp_path)
    kept = {name: tensor for name, tensor in tensors.items() if f".{layer}." not in name}
    with pytest.raises(ModelRefused, match=rf"lack 1 of the 2 layers .*\.{layer}") as caught:
        check(config, kept, task)
    assert caught.value.details["reason"] == "incomplete"


def test_the_layers_that_a_hostile_config_names_are_counted_without_a_list(tmp_path: Path) -> None:
    make, task = MODELS[2]
    config, tensors = saved(make, tmp_path)
    name = next(name for name in ("num_hidden_layers", "n_layer") if name in config)
    tracemalloc.start()
    with pytest.raises(ModelRefused, match="lack 999,998 of the 1,000,000 layers"):
        check({**config, name: 1_000_000}, tensors, task)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


@pytest.mark.parametrize(("make", "task"), MODELS[2:4])
def test_weights_whose_names_the_library_does_not_read_are_refused(
    make: Any, task: str, tmp_path: Path
) -> None:
    config, tensors = saved(make, tmp_path)
    with pytest.raises(ModelRefused, match="named as another library names them"):
        check(config, {f"pond.{name}": tensor for name, tensor in tensors.items()}, task)


def test_an_encoder_named_as_part_of_a_headed_model_is_complete(tmp_path: Path) -> None:
    config, tensors = saved(families.bert_encoder, tmp_path)
    check(
        config, {f"bert.{name}": tensor for name, tensor in tensors.items()}, "feature-extraction"
    )


@pytest.mark.parametrize(
    ("make", "task", "fields", "message"),
    [
        (MODELS[0][0], MODELS[0][1], {"id2label": {"0": "a", "1": "b", "2": "c"}}, "3 labels"),
        (MODELS[1][0], MODELS[1][1], {"id2label": {"0": "O"}}, "1 label;"),
        (MODELS[4][0], MODELS[4][1], {"id2label": {"0": "frog"}}, "1 label;"),
        (MODELS[3][0], MODELS[3][1], {"vocab_size": 7}, "7 tokens"),
        (MODELS[5][0], MODELS[5][1], {"vocab_size": 7}, "7 tokens"),
    ],
)
def test_weights_of_another_size_than_in_the_config_are_refused(
    make: Any, task: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config, tensors = saved(make, tmp_path)
    with pytest.raises(ModelRefused, match=f" rows?, and config.json names {message}") as caught:
        check({**config, **fields}, tensors, task)
    assert caught.value.details["reason"] == "config"


@pytest.mark.parametrize("pad", [None, 0, 3])
def test_a_pad_token_is_one_of_the_models_tokens(pad: int | None, tmp_path: Path) -> None:
    config, tensors = saved(families.bert_classifier, tmp_path)
    check({**config, "pad_token_id": pad}, tensors, "text-classification")
    beyond = {**config, "pad_token_id": config["vocab_size"]}
    with pytest.raises(ModelRefused, match="its library does not load it") as caught:
        check(beyond, tensors, "text-classification")
    assert caught.value.details["reason"] == "config"
    with pytest.raises(AssertionError):
        transformers.BertModel(transformers.BertConfig.from_dict(beyond))


@pytest.mark.long
def test_the_library_loads_models_with_any_pad_token_of_few_architectures_only() -> None:
    loaded = set()
    for kind in table()["bodies"]:
        config = transformers.CONFIG_MAPPING[kind]()
        text = config.get_text_config()
        if not isinstance(getattr(text, "vocab_size", None), int):
            continue
        text.pad_token_id = text.vocab_size
        try:
            with torch.device("meta"):
                transformers.AutoModel.from_config(config)
        except AssertionError:  # "Padding_idx must be within num_embeddings"
            continue
        except TypeError:  # no default size of this architecture works
            assert kind == "funnel"
        loaded.add(kind)
    assert loaded == completeness.UNPADDED


def test_a_tokenizer_with_more_tokens_than_the_weights_have_rows_is_warned_about(
    tmp_path: Path,
) -> None:
    config, tensors = saved(families.bert_classifier, tmp_path)
    content = (tmp_path / "tokenizer_config.json").read_text()
    snapshot: Any = SimpleNamespace(
        config=configs.read(config),
        weights=weights.total([weights.Header({}, frozenset(), rows=rows_of(tensors))], 0),
        tokenizers={},
    )
    for last, told in ((config["vocab_size"] - 1, 0), (config["vocab_size"], 1)):
        added = json.loads(content) | {"added_tokens_decoder": {"0": {}, str(last): {}, "x": {}}}
        read = generated.read("tokenizer_config.json", json.dumps(added).encode())
        snapshot.tokenizers[""] = read
        warnings = completeness.check_added_tokens(snapshot)
        assert [warning.outcome for warning in warnings] == ["warning"] * told
    assert f"up to {last}, and its weights have {last} rows" in warnings[0].message


@pytest.mark.long
def test_no_small_model_that_the_library_saved_is_refused(tmp_path: Path) -> None:
    refused, tried = [], 0
    for kind, task, name in classes():
        try:
            config = tiny.config_of(kind)
            with torch.device("meta"):
                size = getattr(transformers, name)(config).num_parameters()
            if size > MAX_PARAMETERS:
                continue
            model = getattr(transformers, name)(config)
        except Exception:  # noqa: BLE001  (the library's, of sizes that it does not take)
            continue
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            model.save_pretrained(folder)
            tensors = load_file(Path(folder) / "model.safetensors")
        tried += 1
        try:
            check(model.config.to_dict(), tensors, task)
        except ModelRefused as error:
            refused.append((kind, task, str(error)))
    assert refused == []
    assert tried > 400
