"""Small random decoders, one for each architecture, and the bytes that they cache."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

FULL, LINEAR, SLIDING = "full_attention", "linear_attention", "sliding_attention"


def each(value: int, *names: str) -> dict[str, int]:
    return dict.fromkeys(names, value)


SMALL = {
    **each(64, "vocab_size", "hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim"),
    **each(64, "embedding_size", "dim_model", "attention_hidden_size", "lru_width", "conv_dim"),
    **each(64, "conv_dim_out", "block_dim", "emb_dim", "vocab_size_per_layer_input"),
    **each(4, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    **each(4, "num_decoder_layers", "encoder_layers", "num_encoder_layers"),
    **each(2, "num_experts_per_tok", "moe_topk", "moe_k", "num_key_value_heads", "num_kv_heads"),
    **each(2, "n_kv_heads", "index_n_heads", "first_k_dense_replace", "n_mamba_heads"),
    **each(2, "num_global_key_value_heads", "linear_num_key_heads", "swa_num_key_value_heads"),
    **each(4, "num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"),
    **each(4, "encoder_attention_heads", "num_heads", "num_experts", "num_local_experts"),
    **each(4, "n_routed_experts", "moe_num_experts", "linear_num_value_heads", "linear_num_heads"),
    **each(4, "swa_num_attention_heads", "num_decoder_attention_heads"),
    **each(96, "intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"),
    **each(96, "d_ff", "ffn_hidden_size", "ffn_hidden_dim", "block_ff_dim", "dim_ff"),
    **each(32, "moe_intermediate_size", "shared_intermediate_size", "block_multiple_of"),
    **each(32, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    **each(32, "expert_ffn_hidden_size", "global_head_dim", "image_size"),
    **each(16, "head_dim", "d_kv", "dim_head", "index_topk", "mamba_d_head", "mamba_head_dim"),
    **each(16, "mamba_d_state", "state_size", "ssm_state_size", "qk_nope_head_dim"),
    **each(16, "q_lora_rank", "index_head_dim", "linear_key_head_dim", "linear_value_head_dim"),
    **each(16, "hidden_size_per_layer_input", "kv_channels", "swa_head_dim", "linear_head_dim"),
    **each(256, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    **each(8, "kv_lora_rank", "qk_rope_head_dim", "sliding_window", "attention_window"),
    **each(8, "local_attention", "window_size", "attention_chunk_size", "laurel_rank"),
    **each(8, "rotary_dim", "mamba_n_heads", "mamba_num_heads", "patch_size"),
    **each(8, "sliding_window_size", "prompt_length"),
    **each(1, "n_group", "topk_group", "num_expert_groups"),
    "v_head_dim": 12,
    "qk_head_dim": 24,
}
# Fields in which None has a meaning of its own, and is the default of most configs.
OPTIONAL = frozenset(
    ("sliding_window", "attention_window", "attention_chunk_size", "head_dim", "q_lora_rank")
) | {"n_inner", "num_global_key_value_heads"}
ALONE = {"is_encoder_decoder": False, "is_decoder": True}
HEAD = {"head_dim": 16}
ROTARY = {"rope_type": "default", "rope_theta": 1e4}
HYBRID = {"layers_block_type": ["mamba", "hybrid"] * 2}
ALTERNATING = {"layer_types": [LINEAR, FULL] * 2}
# Exceptions to the rule above, by architecture.
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small"), ALONE),
    **dict.fromkeys(("marian", "mbart", "mvp", "pegasus", "plbart", "prophetnet"), ALONE),
    **dict.fromkeys(("bailing_hybrid", "granitemoehybrid", "kimi_linear"), ALTERNATING),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), HEAD),
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", FULL] * 2},
    "lfm2_moe": {"layer_types": ["conv", FULL] * 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "longcat_flash": {"qk_head_dim": 24, "head_dim": 8},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": [SLIDING, FULL] * 2},
    "moshi": {"audio_vocab_size": 64},
    "zaya": {"num_experts_per_tok": 1},
    "cohere_compass_text": {"rope_parameters": {FULL: ROTARY, SLIDING: ROTARY}},
    "dots1": {"n_shared_experts": 1},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "fuyu": {
        "text_config": {
            "model_type": "persimmon",
            **each(64, "hidden_size", "vocab_size"),
            **each(4, "num_hidden_layers", "num_attention_heads"),
            "intermediate_size": 96,
        }
    },
    "zamba": {**HYBRID, "attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": HYBRID,
    "xmod": {"default_language": "en_XX"},
}


def config_of(kind: str) -> Any:
    """Return the config of a small model of this `model_type`; its parts are small as well."""
    return shrink(getattr(transformers, CONFIG_MAPPING_NAMES[kind]))


def shrink(chosen: Any) -> Any:
    usual = {field.name: field.default for field in dataclasses.fields(chosen)}
    fields: dict[str, Any] = {
        name: size
        for name, size in SMALL.items()
        if name in usual
        and not isinstance(usual[name], (list, tuple))
        and not (name in OPTIONAL and usual[name] is None)
    }
    if "num_key_value_heads" in fields:  # one for all, one for each, or groups, as in the default
        shared, heads = usual["num_key_value_heads"], usual.get("num_attention_heads")
        fields["num_key_value_heads"] = {1: 1, heads: 4, None: 4}.get(shared, 2)
    fields |= {name: 1 for name in usual if name.endswith("token_id") and usual[name] is not None}
    for name, part in (getattr(chosen, "sub_configs", None) or {}).items():
        if name in usual and dataclasses.is_dataclass(part):
            fields[name] = shrink(part).to_dict()
    return chosen(**fields | OWN.get(chosen.model_type, {}))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors of a cache's layer, except counters."""
    if isinstance(value, torch.Tensor):
        if value.ndim > 1:
            yield value
        return
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list, tuple)):
        for item in inner:
            yield from tensors(item)


def kept_bytes(cache: Any, *, states: bool = True) -> int:
    parts = [getattr(cache, f"{name}_attention_cache", None) for name in ("self", "cross")]
    sizes = [
        tensor
        for part in (parts if any(parts) else [cache])
        for layer in part.layers
        for name, value in vars(layer).items()
        if states or name in ("keys", "values")
        for tensor in tensors(value)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in sizes)
