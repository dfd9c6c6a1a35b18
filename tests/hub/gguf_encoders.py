"""Tiny GGUF embedders, converted from models of transformers as llama.cpp's converter does it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import BertModel

from hub.families import (
    byte_pair_tokenizer,
    sentence_transformer,
    word_piece_tokenizer,
)
from hub.gguf import CONTROL, NORMAL, finish

POOLINGS = {kind.name.lower(): kind for kind in gguf.PoolingType}


def embedder(folder: Path, packings: tuple[str, ...] = ("F32",)) -> None:
    """Make a BERT with mean pooling in some packings."""
    with tempfile.TemporaryDirectory() as beside:
        original(Path(beside))
        model = BertModel.from_pretrained(beside, add_pooling_layer=False)
    for packing in packings:
        bert(folder / f"tiny-{packing}.gguf", model, "mean", packing)


def original(folder: Path) -> None:
    """Make the model of sentence-transformers that `embedder` converts."""
    torch.manual_seed(14)
    sentence_transformer(folder)


def bert(path: Path, model: Any, pooling: str, packing: str = "F32") -> None:
    """Write a BERT of transformers; as in llama.cpp's vocabularies, a mark precedes each word."""
    writer = begin(path, "bert", model.config, pooling)
    writer.add_layer_norm_eps(model.config.layer_norm_eps)
    writer.add_causal_attention(False)
    tokenizer = word_piece_tokenizer()
    special, tokens = set(tokenizer.all_special_tokens), ordered(tokenizer)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(model.config.type_vocab_size)
    writer.add_token_list([token if token in special else marked(token) for token in tokens])
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_bos_token_id(tokenizer.cls_token_id)
    writer.add_sep_token_id(tokenizer.sep_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_mask_token_id(tokenizer.mask_token_id)
    add_tensors(writer, gguf.MODEL_ARCH.BERT, model, packing)


def qwen3(path: Path, model: Any, pooling: str = "last", ranking: Any = None) -> None:
    """Write a Qwen3, whose tokenizer ends each text with a token.

    `ranking`: what adds the fields and tensors of a ranker.
    """
    writer = begin(path, "qwen3", model.config, pooling)
    if ranking is not None:
        ranking(writer)
    writer.add_head_count_kv(model.config.num_key_value_heads)
    writer.add_key_length(model.config.head_dim)
    writer.add_value_length(model.config.head_dim)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    tokenizer = byte_pair_tokenizer()
    special, tokens = set(tokenizer.all_special_tokens), ordered(tokenizer)
    extra = model.config.vocab_size - len(tokens)
    tokens += [f"<unused{number}>" for number in range(extra)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)
    add_tensors(writer, gguf.MODEL_ARCH.QWEN3, model, "F32")


def begin(path: Path, architecture: str, config: Any, pooling: str) -> Any:
    """Start a file with its model's sizes, and its pooling unless that is empty."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("frog")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if pooling:
        writer.add_pooling_type(POOLINGS[pooling])
    return writer


def add_tensors(writer: Any, architecture: Any, model: Any, packing: str) -> None:
    """Add the tensors under llama.cpp's names, and finish the file; only matrices are packed."""
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    plain, packed = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType[packing]
    for name, tensor in model.state_dict().items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            continue  # numbers of positions
        kind = packed if known.startswith("blk.") and tensor.ndim == 2 else plain
        writer.add_tensor(known, gguf.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
    finish(writer)


def marked(token: str) -> str:
    return token.removeprefix("##") if token.startswith("##") else f"\u2581{token}"


def ordered(tokenizer: Any) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)
