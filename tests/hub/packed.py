"""Makers of text generators whose weights a quantization library has packed.

transformers packs FP8 and MXFP4 on a GPU alone; those are packed here as it reads them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    GptOssConfig,
    GptOssForCausalLM,
)

from hub.families import CONTEXT, byte_pair_tokenizer, llama_generator, write_json
from hub.seeing import qwen_vl

BLOCK = 32
# The numbers that four bits of MXFP4 stand for.
HALVES = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
# The largest number of float8_e4m3fn.
MAX_E4M3 = 448


def block_fp8(folder: Path, maker: Callable[[Path], None] = llama_generator) -> None:
    """Make a model with weights of eight bits and a scale for each block, as DeepSeek's."""
    maker(folder)

    def pack(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if not name.endswith("_proj.weight"):
            return {name: weight.bfloat16()}
        high, wide = (side // BLOCK for side in weight.shape)
        blocks = weight.reshape(high, BLOCK, wide, BLOCK)
        scales = blocks.abs().amax((1, 3)) / MAX_E4M3
        packed = (blocks / scales[:, None, :, None]).reshape(weight.shape)
        return {name: packed.to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}

    size = {"weight_block_size": [BLOCK, BLOCK], "fmt": "e4m3", "activation_scheme": "dynamic"}
    pack_weights(folder, pack, quant_method="fp8", **size)


def block_fp8_vl(folder: Path) -> None:
    """Make a Qwen2-VL with weights of eight bits and a scale for each block."""
    block_fp8(folder, qwen_vl)


def mxfp4(folder: Path) -> None:
    """Make a GPT-OSS whose experts have four bits a weight, in blocks with a common exponent."""
    tokenizer = byte_pair_tokenizer()
    tokenizer.save_pretrained(folder)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=2 * CONTEXT,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
        **special,
    )
    model = GptOssForCausalLM(config)
    model.generation_config = GenerationConfig(**special, max_new_tokens=16)
    model.save_pretrained(folder)
    numbers = torch.tensor([sign * half for sign in (1, -1) for half in HALVES])

    def pack(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if not name.endswith(("experts.down_proj", "experts.gate_up_proj")):
            return {name: weight.bfloat16()}
        rows = weight.float().transpose(1, 2)
        blocks = rows.reshape(*rows.shape[:2], -1, BLOCK)
        exponents = torch.ceil(torch.log2(blocks.abs().amax(-1) / HALVES[-1]))
        scaled = blocks / 2 ** exponents[..., None]
        nearest = (scaled[..., None] - numbers).abs().argmin(-1).to(torch.uint8)
        pairs = nearest[..., 0::2] | (nearest[..., 1::2] << 4)
        return {f"{name}_blocks": pairs, f"{name}_scales": (exponents + 127).to(torch.uint8)}

    dense = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
    dense += ["model.embed_tokens", "lm_head"]
    pack_weights(folder, pack, quant_method="mxfp4", modules_to_not_convert=dense)


def compressed(folder: Path, format: str, bits: int) -> None:
    """Make a Llama packed by compressed-tensors, with one scale for each row."""
    llama_generator(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    floating = format.startswith("float")
    weights = {"num_bits": bits, "type": "float" if floating else "int", "strategy": "channel"}
    group = {"targets": ["Linear"], "weights": {**weights, "symmetric": True, "dynamic": False}}
    config = QuantizationConfig(
        config_groups={"group_0": group},
        ignore=["lm_head"],
        format=format,
        quantization_status="frozen",
    )
    apply_quantization_config(model, config)
    largest = MAX_E4M3 if floating else 2 ** (bits - 1) - 1
    for part in model.modules():
        if hasattr(part, "weight_scale"):
            scale = part.weight.data.abs().amax(-1, keepdim=True) / largest
            part.weight_scale.data = scale.to(part.weight_scale.dtype)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=format)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


def bitsandbytes(folder: Path, **packing: Any) -> None:
    """Make a Llama packed by bitsandbytes."""
    llama_generator(folder)
    options = BitsAndBytesConfig(**packing)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=options, device_map="cpu"
    )
    model.save_pretrained(folder)


def integers(folder: Path, kind: str, bits: int, **described: Any) -> None:
    """Make a Llama with weights packed into integers, as AutoGPTQ or AutoAWQ pack them."""
    llama_generator(folder)
    words, largest = 32 // bits, 2**bits - 1
    shifts = torch.arange(0, 32, bits)
    columns = [0, 2, 4, 6, 1, 3, 5, 7] if kind == "awq" else [*range(words)]

    def join(numbers: torch.Tensor) -> torch.Tensor:
        """Pack numbers into 32-bit words; the first of `columns` is in the lowest bits."""
        return (numbers.reshape(-1, words)[:, columns] << shifts).sum(-1).int()

    def pack(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if not name.endswith("proj.weight"):
            return {name: weight.half()}
        start, (out, rows) = name.removesuffix("weight"), weight.shape
        groups = weight.reshape(out, -1, BLOCK)
        lowest, highest = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scales = ((highest - lowest) / largest).half().float()
        zeros = (-lowest / scales).round().clamp(1, largest)
        numbers = (groups / scales[..., None]).round() + zeros[..., None]
        numbers = numbers.clamp(0, largest).reshape(out, rows).long()
        packed = {f"{start}scales": scales.T.half().contiguous()}
        if kind == "awq":
            packed[f"{start}qweight"] = join(numbers.T).reshape(rows, -1)
        else:
            zeros = zeros - 1
            packed[f"{start}qweight"] = join(numbers).reshape(out, -1).T
            packed[f"{start}g_idx"] = (torch.arange(rows) // BLOCK).int()
        packed[f"{start}qzeros"] = join(zeros.T.long()).reshape(rows // BLOCK, -1)
        return packed

    size = {"bits": bits, "group_size": BLOCK, **described}
    pack_weights(folder, pack, quant_method=kind, **size)


def pack_weights(folder: Path, pack: Any, **described: Any) -> None:
    """Replace each weight by the result of `pack`; describe the packing in config.json."""
    path = folder / "model.safetensors"
    packed: dict[str, torch.Tensor] = {}
    for name, weight in load_file(path).items():
        packed |= {key: value.contiguous() for key, value in pack(name, weight).items()}
    save_file(packed, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"quantization_config": described})
