"""Small models of architectures with special requirements, loaded and called."""

from pathlib import Path

import pytest
import torch
import transformers

from benchmarker.worker.models import LoadedModel, load
from benchmarker.worker.process import Failed
from benchmarker.worker.timing import Cpu, Steps

# The libraries' deprecation warnings.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
PAIR = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "image_size": 32}
MASKS = {
    "backbone_config": transformers.SwinConfig(**SWIN, out_features=["stage4"]),
    "decoder_config": transformers.DetrConfig(
        **PAIR, use_timm_backbone=False, backbone_config=transformers.ResNetConfig()
    ),
    "fpn_feature_size": 32,
    "mask_feature_size": 32,
}
KINDS = {
    "bart": ("zero-shot-classification", "AutoModelForSequenceClassification", PAIR, {}),
    "gpt2": (
        "text-classification",
        "AutoModelForSequenceClassification",
        {"n_embd": 32, "n_layer": 1, "n_head": 2},
        {},
    ),
    "whisper": (
        "automatic-speech-recognition",
        "AutoModelForSpeechSeq2Seq",
        PAIR,
        {"processor": transformers.WhisperFeatureExtractor()},
    ),
    "t5": (
        "feature-extraction",
        "AutoModel",
        {"d_model": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32},
        {},
    ),
    "clip": ("feature-extraction", "AutoModel", {"text_config": TEXT, "vision_config": TEXT}, {}),
    "mpnet": ("feature-extraction", "AutoModel", {**TEXT, "max_position_embeddings": 66}, {}),
    "xlnet": ("feature-extraction", "AutoModel", {"d_model": 32, "n_layer": 1, "n_head": 2}, {}),
    "maskformer": (
        "image-segmentation",
        "AutoModelForInstanceSegmentation",
        MASKS,
        {"processor": transformers.ViTImageProcessor(size={"height": 64, "width": 64})},
    ),
}


def loaded(folder: Path, task: str, **fields) -> LoadedModel:
    question = {
        "folder": str(folder), "task": task, "library": "transformers", "dtype": "float32",
        "attention": None, "compile": False, "inputTokens": None, "newTokens": 3, "seed": 0,
    }  # fmt: skip
    return load(question | fields, "cpu", Steps(Cpu()))


def make(folder: Path, kind: str, auto_class: str, sizes: dict, *, processor=None) -> None:
    config = transformers.AutoConfig.for_model(kind, **sizes)
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    if processor:
        processor.save_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_each_architecture_is_called_with_inputs_that_suit_it(tmp_path, kind) -> None:
    task, auto_class, sizes, more = KINDS[kind]
    make(tmp_path, kind, auto_class, sizes, **more)
    model = loaded(tmp_path, task)
    with torch.inference_mode():
        for size in (1, 3):
            model.prepare(size)()
    assert model.new_tokens == (3 if kind == "whisper" else None)
    # Positions reserved for padding are not available to texts.
    assert model.tokens == {"mpnet": 64, "clip": 77, "whisper": None, "maskformer": None}.get(
        kind, 128
    )


def test_a_generating_model_is_compiled_only_on_request(tmp_path, monkeypatch) -> None:
    """On a GPU, `generate` compiles any model with a static cache; here a setting forces it."""
    make(tmp_path, "llama", "AutoModelForCausalLM", {**TEXT, "vocab_size": 100})
    model = loaded(tmp_path, "text-generation", inputTokens=4)
    compiling = transformers.CompileConfig()
    compiling._compile_all_devices = True
    model.module.generation_config.update(cache_implementation="static", compile_config=compiling)
    compiled = []
    monkeypatch.setattr(model.module, "get_compiled_call", compiled.append)
    with torch.inference_mode():
        model.prepare(1)()
    assert compiled == []


def test_random_inputs_contain_no_special_token_except_the_end_token(tmp_path) -> None:
    make(tmp_path, "bart", "AutoModel", {**PAIR, "vocab_size": 12})
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    drawn: list[torch.Tensor] = []
    model = loaded(tmp_path, "feature-extraction", inputTokens=16)
    model.module.register_forward_pre_hook(
        lambda _, __, given: drawn.append(given["input_ids"]), with_kwargs=True
    )
    with torch.inference_mode():
        model.prepare(50)()
    [ids] = drawn
    assert set(ids[:, -1].tolist()) == {config.eos_token_id}
    assert not special & set(ids[:, :-1].flatten().tolist())


def test_an_architecture_that_the_tasks_classes_cannot_load_is_refused_by_name(tmp_path) -> None:
    make(tmp_path, "bert", "AutoModel", TEXT)
    with pytest.raises(Failed, match="type bert are not measured for automatic-speech") as refused:
        loaded(tmp_path, "automatic-speech-recognition")
    assert refused.value.reason == "architecture"
