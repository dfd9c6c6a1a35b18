"""Recognition of a model by its files and architecture; the card only breaks ties."""

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.contracts.generation import GenerateRequest, Module
from common.errors import ModelRefused
from generator import layout
from generator.description import Description
from generator.hub import Hub
from generator.recognition import library_of, task_of
from generator.snapshot import Snapshot
from models.origins import FOREIGN, NATIVE, POPULAR
from models.tables import table
from models.tasks import LIBRARIES

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

REQUEST = GenerateRequest(model_url="acme/frog")


async def generate(config: dict[str, Any] | None = None, **description: Any) -> Module:
    return await fake_hub.handlers(config, **description).generate(REQUEST)


async def refusal(config: dict[str, Any] | None = None, **description: Any) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        await generate(config, **description)
    return caught.value


def of(kind: str, name: str | None) -> dict[str, Any]:
    return {"model_type": kind, "architectures": name and [name]}


@pytest.mark.parametrize(
    ("config", "description", "task"),
    [
        (of("mistral", "MistralForCausalLM"), {"library_name": "vllm"}, "text-generation"),
        (of("gpt2", None), {"pipeline_tag": "text-generation"}, "text-generation"),
        (of("t5", "T5ForConditionalGeneration"), {}, "text2text-generation"),
        (
            of("t5", "T5ForConditionalGeneration"),
            {"pipeline_tag": "text-generation"},
            "text2text-generation",
        ),
        (of("bert", "BertForSequenceClassification"), {"library_name": "nemo"}, None),
        (of("bert", "BertForSequenceClassification"), {"pipeline_tag": "frog-naming"}, None),
        (of("llama", "LlamaForCausalLM"), {"pipeline_tag": "conversational"}, "text-generation"),
        (
            {**of("bert", "BertForSequenceClassification"), "id2label": {"0": "LABEL_0"}},
            {"pipeline_tag": "text-classification", "id": "acme/frog-reranker"},
            "text-ranking",
        ),
        (
            {**of("bert", "BertForSequenceClassification"), "id2label": {"0": "LABEL_0"}},
            {"pipeline_tag": "text-ranking"},
            "text-ranking",
        ),
    ],
)
async def test_a_models_task_follows_from_its_architecture(
    config: dict[str, Any], description: dict[str, Any], task: str | None
) -> None:
    module = await generate(config, **{"pipeline_tag": None, **description})
    assert module.model.task == (task or "text-classification")
    assert module.model.library == "transformers"


@pytest.mark.parametrize("kind", ["phi3", "falcon"])
async def test_custom_code_is_ignored_for_an_architecture_of_the_library(
    kind: str,
) -> None:
    name = {"phi3": "Phi3ForCausalLM", "falcon": "FalconForCausalLM"}[kind]
    config = {**of(kind, name), "auto_map": {"AutoModel": "modeling.X"}}
    module = await generate(config, pipeline_tag="text-generation")
    assert "trust_remote_code=True" not in module.files["run_inference.py"]


@pytest.mark.parametrize("kind", ["qwen2", "xlm-roberta", "new", "florence2"])
async def test_custom_code_that_changes_the_computation_is_refused_with_an_alternative(
    kind: str,
) -> None:
    error = await refusal({**of(kind, "XModel"), "auto_map": {"AutoModel": "modeling.X"}})
    assert error.details["reason"] == "custom-code"
    assert "what would help: " in error.message


def test_every_native_architecture_exists_in_the_pinned_library() -> None:
    assert set(table()["configs"]) >= NATIVE


FILES: list[tuple[list[str], str, str]] = [
    (["README.md", ".gitattributes"], "empty", "no-weights"),
    (["my-frog-LoRA-v2.safetensors"], "adapter (LoRA)", "adapter"),
    (["frog.nemo"], "NeMo", "library"),
    (["model.bin", "vocabulary.json", "config.json"], "CTranslate2", "library"),
    (["config.cfg", "meta.json", "model"], "spaCy", "library"),
    (["onnx/model.onnx"], "ONNX", "library"),
    (["kokoro-v1_0.pth", "voices/af.pt"], "Kokoro's own library (kokoro)", "library"),
    (["openvino_model.xml", "openvino_model.bin"], "OpenVINO", "library"),
    (["tf_model.h5"], "TensorFlow or Keras", "library"),
    (["frog-Q4_K_M.gguf"], "ends within its header", "weights"),
    (["FROG.GGUF"], "the names of GGUF files must", "incomplete"),
    (["Frog.mlpackage/Manifest.json", "Frog.mlpackage/Data/weight.bin"], "Core ML", "library"),
    (["frog.tflite"], "LiteRT (TensorFlow Lite)", "library"),
    (["frog.litertlm"], "LiteRT (TensorFlow Lite)", "library"),
    (["frog.ckpt.index", "frog.ckpt.data-00000-of-00001"], "TensorFlow or Keras", "library"),
    (["frog.pdparams"], "PaddlePaddle", "library"),
    (["frog.engine"], "TensorRT", "library"),
    (["frog.pte"], "ExecuTorch", "library"),
    (["frog.rknn"], "RKNN", "library"),
    (["frog.llamafile"], "llamafile", "library"),
    (["ggml-frog.en.bin"], "GGML", "library"),
    (["frog.joblib"], "scikit-learn", "library"),
    (["adapter_model.bin", "adapter_config.json"], "(LoRA) with pickled weights", "adapter"),
    (["rust_model.ot"], "rust-bert", "library"),
    (["weights.npz"], "NumPy", "library"),
    (["pytorch_model.bin", "onnx/model.onnx"], "pickled", "pickle-only"),
]


@pytest.mark.parametrize(("names", "message", "reason"), FILES)
async def test_a_refusal_for_missing_weights_names_the_files_found_instead(
    names: list[str], message: str, reason: str
) -> None:
    siblings = [{"rfilename": n, "size": 9, "blobId": fake_hub.BLOB} for n in names]
    error = await refusal(siblings=siblings)
    assert message in error.message
    assert error.details["reason"] == reason


async def test_a_refused_conversion_names_its_base_model() -> None:
    files = [{"rfilename": "frog.nemo", "size": 9, "blobId": fake_hub.BLOB}]
    tags = ["base_model:acme/toad", "base_model:quantized:acme/toad"]
    error = await refusal(siblings=files, tags=tags)
    assert "what would help: acme/toad" in error.message
    hostile = ["base_model:quantized:<b>", "base_model:" + "x" * 300, 7, None]
    assert "<b>" not in (await refusal(siblings=files, tags=hostile)).message


@pytest.mark.parametrize("library", sorted(FOREIGN))
async def test_a_refusal_names_a_library_that_modules_do_not_install(library: str) -> None:
    error = await refusal({"model_type": None}, library_name=library)
    assert (error.details["reason"], f"is for {library}" in error.message) == ("library", True)


async def test_a_refusal_names_the_pipeline_component_that_was_submitted() -> None:
    error = await refusal({"model_type": None, "_class_name": "ControlNetModel"})
    assert "only a part of a diffusers pipeline (ControlNetModel)" in error.message


async def test_an_adapter_next_to_its_base_is_refused() -> None:
    config = of("bert", "BertForSequenceClassification")
    with pytest.raises(ModelRefused, match="answers would ignore it") as caught:
        await fake_hub.handlers(config, names=("adapter_config.json",)).generate(REQUEST)
    assert caught.value.details["reason"] == "adapter"


async def test_a_late_interaction_model_is_refused_by_name() -> None:
    error = await refusal(of("bert", "HF_ColBERT"), pipeline_tag="feature-extraction")
    assert "late interaction" in error.message
    for tag in ("colbert", "PyLate"):
        error = await refusal(of("modernbert", "ModernBertModel"), tags=[tag])
        assert "late interaction" in error.message
    error = await refusal(of("bert", "HF_ColBERT"), pipeline_tag="sentence-similarity")
    assert "late interaction" in error.message
    with pytest.raises(ModelRefused, match="late interaction"):
        layout.read("modules.json", orjson.dumps([{"path": "", "type": "pylate.models.Dense"}]))


@pytest.mark.parametrize(
    ("names", "warned"),
    [(["LABEL_0", "LABEL_1", "LABEL_2"], True), (["bad", "LABEL_1", "good"], False)],
)
async def test_labels_without_names_are_warned_about(names: list[str], warned: bool) -> None:
    labels = {str(place): name for place, name in enumerate(names)}
    module = await generate({"id2label": labels}, pipeline_tag="text-classification")
    messages = [check.message for check in module.validation.checks if check.name == "labels"]
    assert len(messages) == warned
    assert all("does not name the model's labels" in message for message in messages)


async def test_labels_that_cannot_answer_the_task_are_refused() -> None:
    sentiment = {"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}}
    error = await refusal(sentiment, pipeline_tag="zero-shot-classification")
    assert "needs a label `entailment`" in error.message
    error = await refusal(sentiment, pipeline_tag="text-ranking")
    assert "has 2 labels" in error.message


def test_a_dot_in_modules_json_means_the_root_folder() -> None:
    steps = [
        {"path": ".", "type": "sentence_transformers.models.Transformer"},
        {"path": "./1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    assert layout.read("modules.json", orjson.dumps(steps)).folders == ("", "1_Pooling")


@pytest.mark.parametrize("tag", [None, "feature-extraction", "text-generation", "frog-naming"])
def test_a_generative_ranker_is_recognised_unless_its_card_names_a_task_never_served(
    tag: str | None,
) -> None:
    steps = [
        {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"path": "1_Score", "type": "sentence_transformers.cross_encoder.modules.LogitScore"},
    ]
    laid_out = layout.read("modules.json", orjson.dumps(steps))
    config = of("llama", "LlamaForCausalLM")

    def tagged(tag: str | None) -> Snapshot:
        described = Description(id="acme/frog", sha="c" * 40, pipeline_tag=tag)
        return Snapshot(described, (), frozenset(), config, None, laid_out)

    snapshot = tagged(tag)
    assert task_of(snapshot) == "text-ranking"
    assert library_of(snapshot, "text-ranking") == "sentence-transformers"
    with pytest.raises(ModelRefused, match="no module is made for robotics"):
        task_of(tagged("robotics"))


async def test_a_ranker_that_writes_its_answer_is_refused_without_its_prompt() -> None:
    error = await refusal(of("qwen3", "Qwen3ForCausalLM"), pipeline_tag="text-ranking")
    assert error.details["reason"] == "architecture"
    assert "lack the prompt" in error.message
    assert "a revision with modules.json" in error.message


def test_a_router_that_names_the_authors_code_is_refused() -> None:
    types = {"query_0_Dense": "modeling_frog.Dense"}
    with pytest.raises(ModelRefused, match=r"router_config\.json requires code"):
        layout.read_routes(orjson.dumps({"types": types}))


async def test_a_licence_in_capitals_is_recognised() -> None:
    module = await generate(cardData={"license": "Apache-2.0"})
    assert module.model.license == "apache-2.0"


@pytest.mark.parametrize(
    ("kind", "name", "dtype"),
    [
        ("gemma2", "Gemma2ForCausalLM", "bfloat16"),
        ("gemma3_text", "Gemma3ForCausalLM", "bfloat16"),
        ("llama", "LlamaForCausalLM", "float16"),
    ],
)
async def test_float32_weights_that_overflow_in_float16_are_computed_in_bfloat16(
    kind: str, name: str, dtype: str
) -> None:
    request = GenerateRequest(model_url="acme/frog", options={"gpu": True})
    handlers = fake_hub.handlers(of(kind, name), pipeline_tag="text-generation")
    module = await handlers.generate(request)
    assert f"dtype: {dtype}" in module.files["module.yaml"]


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ({"library_name": "gliner", "pipeline_tag": "token-classification"}, "bert-base-NER"),
        ({"library_name": "ultralytics", "pipeline_tag": "object-detection"}, "detr-resnet-50"),
        ({"library_name": "pyannote-audio"}, "its library in a container written for it"),
    ],
)
async def test_a_model_of_another_library_is_refused_with_a_model_that_is_served(
    card: dict[str, Any], named: str
) -> None:
    error = await refusal(of("frog", "FrogModel"), **card)
    assert error.details["reason"] == "library"
    assert named in error.message.partition("what would help: ")[2]


def test_each_popular_model_that_a_refusal_names_is_of_a_task_that_is_served() -> None:
    assert set(POPULAR) <= {tag for rows in LIBRARIES.values() for tag in rows}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("lora_unet_mid.lora_down.weight", "the model is an adapter (LoRA)"),
        ("frog.hada_w1_a", "the model is an adapter (LoRA)"),
        ("q_proj.lora_A.default.weight", "the model is an adapter (LoRA)"),
        ("model.diffusion_model.out.2.weight", "a diffusion checkpoint in one file"),
        ("layers.7.attention.wq.weight", "its author's own program (consolidated)"),
    ],
)
async def test_a_file_of_any_name_is_recognised_by_the_names_of_its_tensors(
    name: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, size = fake_hub.weights([8, 8], more=(name,))

    async def part(*_: Any) -> bytes:
        return content

    monkeypatch.setattr(Hub, "part", part)
    lfs = {"sha256": "d" * 64, "size": size}
    file = {"rfilename": "pond-style.safetensors", "blobId": fake_hub.BLOB, "lfs": lfs}
    error = await refusal(siblings=[file])
    assert shown in error.message
    error = await refusal(siblings=[{**file, "lfs": {**lfs, "size": 9}}])
    assert "laid out for another program" in error.message


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ("ControlNetModel", "ControlNetModel"),
        ("QwenImageControlNetModel", "a ControlNet"),
        ("UNet3DConditionModel", "a denoiser"),
        ("<b>", "no model that answers by itself"),
    ],
)
async def test_a_part_of_a_pipeline_is_named_as_what_it_is(part: str, shown: str) -> None:
    error = await refusal({"model_type": None, "_class_name": part})
    assert f"only a part of a diffusers pipeline ({shown}); what would help: " in error.message
    error = await refusal({"model_type": None, "_class_name": part}, tags=["base_model:acme/toad"])
    assert error.message.endswith("acme/toad, for which it was made")


@pytest.mark.parametrize(
    ("license", "message"),
    [
        (" Apache-2.0 ", "apache-2.0"),
        (["MIT"], "mit"),
        ("The Frog Licence", "names a licence that the Hub does not list"),
    ],
)
async def test_a_licence_is_read_in_any_spelling(license: Any, message: str) -> None:
    handlers = fake_hub.handlers(cardData={"license": license})
    module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
    [check] = [check for check in module.validation.checks if check.name == "license"]
    assert message in check.message
