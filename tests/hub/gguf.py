"""Tiny GGUF models, written and read by llama.cpp's own package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

CHAT = (
    "{% for turn in messages %}{{ '<|' + turn.role + '|>' + turn.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
NORMAL, CONTROL = 1, 3  # types of tokens
CONTEXT = 1024


def llama(
    path: Path,
    packing: str = "F32",
    *,
    width: int = 64,
    layers: int = 2,
    words: int = 0,
    context: int = CONTEXT,
    chat: bool = True,
    parts: int = 0,
) -> None:
    """Write a llama with random weights and a token for each byte, and `words` more.

    `parts`: tensors in each of several files, with the names that llama.cpp gives them.
    """
    heads, kv_heads = 4, 2
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=parts)
    writer.add_name("frog")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    tokens = [*letters(), *SPECIAL, *(f"word{n}" for n in range(words))]
    kinds = [CONTROL if token in SPECIAL else NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)
    writer.add_add_bos_token(False)
    if chat:
        writer.add_chat_template(CHAT)
    numbers = np.random.default_rng(7)

    def add(name: str, *shape: int) -> None:
        values = numbers.normal(0, 0.3, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType[packing]
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd", len(tokens), width)
    add("output_norm", width)
    add("output", len(tokens), width)
    narrow = kv_heads * width // heads
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", width)
        for name, rows in (("q", width), ("k", narrow), ("v", narrow), ("output", width)):
            add(f"blk.{layer}.attn_{name}", rows, width)
        for name in ("gate", "up"):
            add(f"blk.{layer}.ffn_{name}", 2 * width, width)
        add(f"blk.{layer}.ffn_down", width, 2 * width)
    finish(writer)


def letters() -> list[str]:
    """Return the character with which a byte-level tokenizer writes each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + n) for n in range(256))
    return [chr(byte) if byte in plain else next(others) for byte in range(256)]


def write_gguf(
    path: Path, fields: Mapping[str, str | int], shapes: Mapping[str, list[int]]
) -> None:
    """Write a file with these fields, and float tensors of zeros."""
    writer = gguf.GGUFWriter(path, str(fields["general.architecture"]))
    for name, value in fields.items():
        if name == "general.architecture":
            continue
        if isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_string(name, value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    finish(writer)


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path) -> dict[str, str | int]:
    """Return the metadata and the parameter `total`, as the real Hub shows them."""
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture")
    assert architecture
    name = str(architecture.contents())
    context = reader.get_field(f"{name}.context_length")
    return {
        "total": sum(int(tensor.n_elements) for tensor in reader.tensors),
        "architecture": name,
        "context_length": int(context.contents()) if context else 0,
    }
