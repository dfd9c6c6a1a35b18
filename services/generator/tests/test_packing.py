"""Modules of weights packed into fewer bits, compared with transformers."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from common.contracts.generation import GenerateRequest
from common.errors import ModelRefused
from generator import configs
from generator.handlers import Handlers
from hub.testing import RunningHub
from models import packing

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub
from modules import Built, build

KINDS = {
    "fp8": ("packed-fp8", None),
    "mxfp4": ("packed-mxfp4", None),
    "compressed-tensors": ("packed-compressed", None),
    "compressed-tensors of eight bits": ("packed-compressed", "int8"),
    "compressed-tensors of four bits": ("packed-compressed", "int4"),
    "bitsandbytes": ("packed-bitsandbytes", None),
    "bitsandbytes of eight bits": ("packed-bitsandbytes", "8bit"),
}
# Kinds that transformers unpacks with a package that needs another torch than the pinned one.
INTEGERS = {"gptq": None, "gptq of eight bits": "gptq-8bit", "awq": "awq"}
TEXTS = ["the frog is on the lily pad", "who is happy?"]


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
async def test_a_module_of_packed_weights_answers_like_the_library(
    name: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    model, revision = KINDS[name]
    generated = await handlers.generate(
        GenerateRequest(model_url=f"lilypad/{model}", revision=revision)
    )
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    run = module.manifest["run"]
    kind = name.partition(" of")[0]
    assert (run["packing"], run["stack"]) == (kind, "words-packed")
    fate = "they stay packed" if kind == "bitsandbytes" else "unpacked when they are loaded"
    assert f" bytes, packed as `{kind}`: {fate} |" in generated.files["README.md"]
    request = {"inputs": TEXTS, "parameters": {"max_new_tokens": 8, "raw": True}}
    code, result = module.run_here(request)
    assert (code, result["status"]) == (0, "success"), result
    assert result["outputs"] == transformers_outputs(module)


def transformers_outputs(module: Built) -> list[Any]:
    """Continue the texts with the weights as transformers loads them, in float32."""
    folder = module.app / "model"
    config = transformers.AutoConfig.from_pretrained(folder)
    described = config.quantization_config
    if described["quant_method"] != "bitsandbytes":
        described["dequantize"] = True
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, device_map="cpu"
    )
    if described["quant_method"] != "bitsandbytes":
        model = model.float()
    return write(model, folder)


def write(model: Any, folder: Path) -> list[Any]:
    """Continue the texts with a model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    answers = []
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt")
        written = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0]
        after = written[tokens["input_ids"].shape[1] :]
        answers.append({"generated_text": tokenizer.decode(after, skip_special_tokens=True)})
    return answers


@pytest.mark.long
@pytest.mark.parametrize("name", INTEGERS)
async def test_a_module_of_packed_integers_answers_like_the_dequantized_model(
    name: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    request = GenerateRequest(model_url="lilypad/packed-integers", revision=INTEGERS[name])
    generated = await handlers.generate(request)
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    assert module.manifest["run"]["packing"] == name.partition(" of")[0]
    folder = module.app / "model"
    packed = load_file(folder / "model.safetensors")
    config = transformers.AutoConfig.from_pretrained(folder)
    bits, kind = config.quantization_config["bits"], config.quantization_config["quant_method"]
    del config.quantization_config
    weights = {
        name: value.float() for name, value in packed.items() if name.endswith(".weight")
    } | {
        name.replace("qweight", "weight"): matrix(packed, name.removesuffix("qweight"), kind, bits)
        for name in packed
        if name.endswith(".qweight")
    }
    model = transformers.LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32
    )
    code, result = module.run_here(
        {"inputs": TEXTS, "parameters": {"max_new_tokens": 8, "raw": True}}
    )
    assert (code, result["status"]) == (0, "success"), result
    assert result["outputs"] == write(model.eval(), folder)


def matrix(packed: dict[str, Any], layer: str, kind: str, bits: int) -> torch.Tensor:
    """Dequantize a layer number by number, as the authors of the format describe."""
    numbers, zeros = packed[f"{layer}qweight"].tolist(), packed[f"{layer}qzeros"].tolist()
    scales, words = packed[f"{layer}scales"].float(), 32 // bits
    rows = len(numbers) * (words if kind == "gptq" else 1)
    # AutoAWQ writes columns 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on.
    place = [0, 4, 1, 5, 2, 6, 3, 7] if kind == "awq" else [*range(words)]
    size = rows // len(zeros)

    def pick(number: int, at: int) -> int:
        return (number >> (bits * place[at])) & (2**bits - 1)

    weight = torch.empty(scales.shape[1], rows)
    for column in range(scales.shape[1]):
        for row in range(rows):
            word, at = divmod(row if kind == "gptq" else column, words)
            number = numbers[word][column] if kind == "gptq" else numbers[row][word]
            word, zero_at = divmod(column, words)
            zero = pick(zeros[row // size][word], zero_at) + (kind == "gptq")
            weight[column, row] = (pick(number, at) - zero) * scales[row // size, column]
    return weight


LLAMA: dict[str, Any] = {
    "config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000},
    "pipeline_tag": "text-generation",
}


def described(**fields: Any) -> dict[str, Any]:
    """Return a model whose config describes its weights with these fields."""
    return {**LLAMA, "config": {**LLAMA["config"], "quantization_config": fields}}


def grouped(**weights: Any) -> dict[str, Any]:
    """Return a compressed-tensors config with one group of these fields."""
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


COMPRESSED: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    **grouped(num_bits=4),
}


UNREAD = r"quantized \(compressed-tensors, in a format that the library does not unpack\)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quant_method": "gptq", "bits": 3}, r"quantized \(GPTQ, of.*acme/toad, from which"),
        ({"quant_method": "modelopt"}, "Model Optimizer"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4 of NVIDIA's Model Optimizer"),
        ({"quant_method": "<b>"}, "quantized: its weights"),
        ({"bits": 4}, "quantized: its weights"),
        ({"quant_method": "bitsandbytes"}, "quantized: its weights"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, UNREAD),
        ({**COMPRESSED, "format": ["pack-quantized"]}, UNREAD),
        (COMPRESSED | grouped(num_bits=[4]), UNREAD),
        (COMPRESSED | grouped(num_bits={}), UNREAD),
        (COMPRESSED | grouped(num_bits=4.0), UNREAD),
        (COMPRESSED | {"sparsity_config": [1]}, UNREAD),
        ({"quant_method": "gptq", "bits": 4.0}, r"quantized \(GPTQ, of"),
        ({"quant_method": "awq", "bits": 4.0}, r"quantized \(AWQ, of"),
        ({"quant_method": ["gptq"], "bits": 4}, "quantized: its weights"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": "false"}, "quantized: its weights"),
    ],
)
async def test_weights_that_modules_cannot_unpack_are_refused_as_quantized(
    fields: dict[str, Any], message: str
) -> None:
    handlers = fake_hub.handlers(**described(**fields), tags=["base_model:acme/toad"])
    with pytest.raises(ModelRefused, match=message) as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "quantized"


@pytest.mark.parametrize("name", ["transformer/config.json", "text_encoder/config.json"])
def test_a_part_of_a_pipeline_whose_weights_are_packed_is_refused(name: str) -> None:
    content = json.dumps({"quantization_config": {"quant_method": "torchao"}}).encode()
    with pytest.raises(ModelRefused) as caught:
        configs.read(name, content)
    assert caught.value.details["reason"] == "quantized"


async def test_packed_weights_are_refused_for_tasks_whose_modules_do_not_unpack_them() -> None:
    config = {"quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(ModelRefused, match="whose weights are not quantized"):
        await fake_hub.handlers(config).generate(GenerateRequest(model_url="acme/frog"))


def test_packed_weights_count_as_their_unpacked_elements() -> None:
    fp8 = packing.read({"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert packing.unpacked(fp8, {"F8_E4M3": 100, "BF16": 10, "F32": 1}) == {"BF16": 110, "F32": 1}
    mxfp4 = packing.read({"quant_method": "mxfp4"})
    assert packing.unpacked(mxfp4, {"U8": 100, "BF16": 10}) == {"BF16": 210}
    four = packing.read(COMPRESSED)
    assert packing.unpacked(four, {"I32": 100, "I64": 2}) == {"BF16": 800, "I64": 2}
    kept = packing.read({"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert packing.unpacked(kept, {"U8": 100, "F16": 10}) == {"U8": 100, "F16": 10}
    # What shared snapshots are written as.
    assert json.loads(json.dumps(four)) == four
