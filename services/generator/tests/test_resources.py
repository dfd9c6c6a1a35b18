import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

from common.contracts.generation import GenerateOptions, GenerateRequest, Module
from common.errors import ModelRefused
from generator import rendering, resources, weights
from generator.templates.inference import shrinking
from models import sizes
from models.dtypes import kept_in_float32
from models.families import FAMILIES

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

# Sizes of Llamas with 8 billion parameters; one tensor represents all of theirs.
LLAMA_8B = {
    "config": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
    },
    "shape": [8030, 1_000_000],
    "dtype": "BF16",
    "pipeline_tag": "text-generation",
}

FEW = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def make(model: dict[str, Any] | None = None, **options: Any) -> tuple[Module, dict[str, Any]]:
    request = GenerateRequest(model_url="acme/frog", options=GenerateOptions(**options))
    module = asyncio.run(fake_hub.handlers(**(model or {})).generate(request))
    return module, yaml.safe_load(module.files["module.yaml"])


def test_a_large_model_requests_gpu_memory_for_weights_cache_and_context() -> None:
    module, manifest = make(LLAMA_8B)
    # In MiB: weights in half precision, and the cache and one layer's activations of 8192 tokens.
    assert module.model.vram_mib == pytest.approx((15_317 + 1_024 + 960) * 1.1 + 640, abs=2)
    assert module.model.vram_source == "headers"
    assert module.model.parameters == 8_030_000_000
    assert manifest["run"]["dtype"] == "bfloat16"
    assert manifest["resources"]["gpu"] == 1
    gpus = f'"gpus": [{{ "vram": {module.model.vram_mib} }}]'
    assert gpus in module.files["lilypad_module.json.tmpl"]


def test_beam_search_requests_memory_for_every_beam() -> None:
    config = {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "num_beams": 4,
        "d_model": 1024,
        "decoder_layers": 12,
        "decoder_attention_heads": 16,
    }
    model = {"config": config, "pipeline_tag": "summarization"}

    def message(names: tuple[str, ...]) -> str:
        _, manifest = make({**model, "names": names}, batchSize=1)
        return str(manifest["resources"]["sources"]["memoryMiB"])

    # 12 layers, 512 tokens read and as many written, in float32: four times 96 MiB.
    assert "cache 384 MiB" in message(())
    # This file does not mention beams, and replaces config.json's generation settings.
    assert "cache 96 MiB" in message(("generation_config.json",))


def test_a_small_model_requests_no_gpu() -> None:
    module, manifest = make()
    assert (manifest["resources"]["gpu"], module.model.vram_mib) == (0, 0)
    assert "gpus" not in module.files["lilypad_module.json.tmpl"]
    assert manifest["run"]["dtype"] == "float32"


def test_each_option_changes_the_files() -> None:
    seen = {make(LLAMA_8B)[0].files["module.yaml"]}
    for option, value in (
        ("batch_size", 3),
        ("memory", "64GB"),
        ("gpu", False),
        ("optimization_level", "none"),
        ("optimization_level", "full"),
    ):
        seen.add(make(LLAMA_8B, **{option: value})[0].files["module.yaml"])
    assert len(seen) == 6


def test_the_optimization_levels_match_their_documentation() -> None:
    runs = {
        level: make(LLAMA_8B, gpu=True, optimization_level=level)[1]["run"]
        for level in ("none", "basic", "full")
    }
    assert [(r["dtype"], r["attention"], r["compile"]) for r in runs.values()] == [
        ("float32", "eager", False),
        ("bfloat16", "sdpa", False),
        ("bfloat16", "sdpa", True),
    ]


def test_a_larger_batch_needs_more_memory() -> None:
    small, large = (make(LLAMA_8B, batch_size=size)[0].model.vram_mib for size in (1, 8))
    assert large - small > 7 * 1024  # each input's cache alone is 1 GiB


def test_a_module_that_does_not_batch_requests_memory_for_one_input() -> None:
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}
    task = "automatic-speech-recognition"
    model = {"config": config, "pipeline_tag": task, "names": ("vocab.json",)}
    module, manifest = make(model)
    many, _ = make(model, batch_size=64)
    assert many.files == module.files
    assert manifest["run"]["batchSize"] == 1
    assert many.validation.errors == [
        f"modules for {task} answer one input after the other: batchSize is 1"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_marked_as_batching_if_its_script_reads_the_batch_size(family: str) -> None:
    assert FAMILIES[family].batches == ('["batchSize"]' in rendering.script(family))


def test_requested_memory_below_the_estimate_is_kept_with_a_warning() -> None:
    needed = make(LLAMA_8B)[1]["resources"]["memoryMiB"]
    module, manifest = make(LLAMA_8B, memory="2Gi")
    assert manifest["resources"]["memoryMiB"] == 2048
    assert module.validation.status == "warnings"
    assert f"{needed - 2048:,} MiB less" in module.validation.errors[0]


@pytest.mark.parametrize(
    ("memory", "mib"),
    [("8GB", 7629), ("16Gi", 16384), ("4096MB", 3906), ("900MiB", 900), ("7GiB", 7168)],
)
def test_memory_units_are_converted_exactly(memory: str, mib: int) -> None:
    assert make(memory=memory)[1]["resources"]["memoryMiB"] == mib


def test_a_model_too_large_for_any_gpu_is_refused() -> None:
    model = {**LLAMA_8B, "shape": [70_000, 1_000_000]}
    with pytest.raises(ModelRefused) as caught:
        make(model)
    assert caught.value.details["reason"] == "too-large"


def test_the_input_length_is_the_models_limit_within_bounds() -> None:
    lengths = [
        make({"config": config})[1]["run"]["maxTokens"]
        for config in (
            {"max_position_embeddings": 512},
            {"max_position_embeddings": 514, "model_type": "roberta"},
            {"max_position_embeddings": 10**9},
            {"max_position_embeddings": "512"},
            {"max_position_embeddings": 4_000_000},
        )
    ]
    assert lengths == [512, 512, 2048, 2048, 8192]


def test_both_of_the_networks_timeouts_include_the_pull_of_the_image() -> None:
    module, manifest = make(LLAMA_8B)
    needs = manifest["resources"]
    # 16 GB of weights and 8 GiB of libraries at 250 Mbit/s.
    assert needs["executionTimeout"] - needs["timeout"] > 13 * 60
    template = module.files["lilypad_module.json.tmpl"]
    for field in ("executionTimeoutSeconds", "Timeout"):
        assert f'"{field}": {needs["executionTimeout"]}' in template
    assert not any("7,200" in message for message in module.validation.errors)


def test_a_job_longer_than_the_solvers_deal_limit_causes_a_warning() -> None:
    model = {**LLAMA_8B, "shape": [90_000, 1_000_000]}
    request = GenerateRequest(model_url="acme/frog", accept=["too-large"])
    module = asyncio.run(fake_hub.handlers(**model).generate(request))
    assert any("ends a deal after 7,200 s" in message for message in module.validation.errors)


def test_a_cpu_module_installs_torch_from_the_configured_cpu_index() -> None:
    index = "https://packages.example/cpu"
    handlers = fake_hub.handlers()
    handlers.settings = handlers.settings.model_copy(update={"cpu_torch_index": index})
    module = asyncio.run(handlers.generate(GenerateRequest(model_url="acme/frog")))
    assert module.validation.status == "passed"
    assert yaml.safe_load(module.files["module.yaml"])["resources"]["diskMiB"] < 3 * 1024
    assert f"ARG PIP_EXTRA_INDEX_URL={index}\n" in module.files["Dockerfile"]


def test_without_a_cpu_package_index_a_cpu_module_requests_disk_for_cuda() -> None:
    module, manifest = make()
    assert manifest["resources"]["diskMiB"] >= 8 * 1024
    assert "ARG PIP_EXTRA_INDEX_URL\n" in module.files["Dockerfile"]
    assert "pytorch.org/get-started" in module.files["README.md"]


@pytest.mark.parametrize("options", [{"batch_size": 512}, {"gpu": False, "batch_size": 1024}])
def test_options_too_large_for_any_provider_cause_a_warning_with_the_excess(
    options: dict[str, Any],
) -> None:
    module, manifest = make(LLAMA_8B, **options)
    gpu = manifest["resources"]["gpu"]
    needs = manifest["resources"]["vramMiB" if gpu else "memoryMiB"]
    over = needs - (81_559 if gpu else 262_144)
    assert over > 0
    assert f"{over:,} MiB more than the largest" in module.validation.errors[0]


def test_a_default_batch_is_reduced_until_it_fits() -> None:
    # One input of maximum length fits together with the weights; two do not.
    wide = {"num_key_value_heads": 32, "num_hidden_layers": 96, "hidden_size": 8192}
    model = {**LLAMA_8B, "config": {**LLAMA_8B["config"], **wide}, "shape": [20_000, 1_000_000]}
    module, manifest = make(model)
    assert manifest["run"]["batchSize"] == 1
    assert module.validation.status == "passed"


def test_every_resource_in_module_yaml_names_its_source() -> None:
    _, manifest = make(LLAMA_8B)
    needs = manifest["resources"]
    assert set(needs["sources"]) == set(needs) - {"gpu", "vramSource", "sources"}
    sources = make(LLAMA_8B, memory="64GB")[1]["resources"]["sources"]
    assert sources["memoryMiB"] != needs["sources"]["memoryMiB"]
    assert "options" in sources["memoryMiB"]


def test_an_estimated_figure_lists_its_parts_with_their_sources() -> None:
    _, manifest = make(LLAMA_8B)
    assert manifest["resources"]["sources"]["vramMiB"] == (
        "weights 15,317 MiB (headers), cache 1,024 MiB (config), logits 1 MiB (config), "
        "activations 960 MiB (config); by the formula of the reference"
    )


def test_the_job_requests_the_disk_that_the_image_takes() -> None:
    module, manifest = make(LLAMA_8B)
    disk = manifest["resources"]["diskMiB"]
    assert disk == pytest.approx(8192 + 15_317, abs=256)
    assert f'"disk": {disk}' in module.files["lilypad_module.json.tmpl"]


@pytest.mark.parametrize(
    ("kind", "model", "config"),
    [
        (
            "blip-2",
            "Blip2Model",
            {
                "text_config": {"model_type": "opt", **FEW},
                "vision_config": FEW,
                "qformer_config": FEW,
            },
        ),
        (
            "t5",
            "T5ForConditionalGeneration",
            {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4},
        ),
        (
            "deepseek_v3",
            "DeepseekV3ForCausalLM",
            {**FEW, "n_routed_experts": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 16},
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_include_the_parts_that_the_library_keeps_in_float32(
    kind: str, model: str, config: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    chosen = getattr(transformers, model)
    chosen(chosen.config_class(**config)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    length = weights.header_length(content, len(content))
    header = weights.read_header(content[8 : 8 + length], len(content))
    read = weights.total([header], len(content))
    loaded = chosen.from_pretrained(tmp_path, dtype=dtype)
    held = {id(tensor): tensor.nbytes for tensor in loaded.state_dict().values()}
    parameters = sum(tensor.nbytes for tensor in loaded.parameters())
    counted = resources.weigh(read, 2, kept_in_float32({kind}, dtype))
    assert parameters <= counted <= max(parameters, sum(held.values())) * 1.001


def test_the_memory_estimate_includes_the_masks_of_a_batch_of_points() -> None:
    # As sam-vit-base, which took 2,970 MiB with its first 64 points.
    config = {"architectures": ["SamModel"], "model_type": "sam"}
    model = {"config": config, "pipeline_tag": "mask-generation", "shape": [93_735, 1_000]}
    assert 2_970 <= make(model)[1]["resources"]["memoryMiB"] < 2 * 2_970


def test_the_memory_estimate_includes_the_convolutions_over_raw_sound() -> None:
    # As wav2vec2-base-960h, which took 1,599 MiB for the 41 s that it hears at once.
    convolutions = {"conv_dim": [512] * 7, "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    config = {"architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2", **convolutions}
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    model = {
        "config": {**config, **sizes, "max_position_embeddings": None},
        "pipeline_tag": "automatic-speech-recognition",
        "names": ("vocab.json",),
        "shape": [94_396, 1_000],
    }
    manifest = make(model)[1]
    assert manifest["run"]["maxTokens"] == 2048
    assert 1_599 <= manifest["resources"]["memoryMiB"] < 2 * 1_599


def test_the_memory_estimate_includes_a_full_size_map_of_each_label() -> None:
    # As segformer-b0 for the 150 labels of ADE20K, which took 1,329 MiB.
    config = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "id2label": {str(number): f"label {number}" for number in range(150)},
    }
    tensors = ("decode_head.classifier.weight",)
    model = {
        "config": config,
        "pipeline_tag": "image-segmentation",
        "tensors": tensors,
        "shape": [3_753, 1_000],
    }
    assert 1_329 <= make(model)[1]["resources"]["memoryMiB"] <= 2 * 1_329


def test_a_module_shrinks_pictures_to_the_size_that_its_estimate_assumes() -> None:
    assert shrinking.MAX_PIXELS == sizes.MAX_PIXELS
