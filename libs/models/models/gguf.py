"""Sizes and memory of GGUF models, as llama.cpp computes them.

    cache        layers x tokens x key-value heads x (key + value length) x 2 bytes; a layer with a
                 sliding window keeps the window and one batch; recurrent layers keep one state
    logits       batch x vocabulary x 4 bytes: the context reserves them for a whole batch
    activations  batch x (8 x hidden + 3 x feed-forward + 4 x heads) x 4 bytes, and the attention
                 mask of a batch, batch x tokens x 6 bytes

An embedder that reads a text as a whole has a batch of all tokens, no cache if it is an encoder, a
mask of 2 bytes (flash attention) and no logits; a decoder as an embedder has its logits twice.

A batch are the 512 tokens that llama.cpp reads at once. `facts` are what the generator keeps of a
file's header: its numbers by key, without the architecture's name before them.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import compress
from typing import Any

from models.sizes import MAX_TOKENS, USUAL_TOKENS, Footprint

Facts = Mapping[str, Any]

# Tokens that llama.cpp reads at once (`n_ubatch`), and the multiple to which it rounds a cache.
BATCH, CACHE_STEP = 512, 256
# A cached number is a float16, a computed one and a state's a float32.
CACHED_BYTES, COMPUTED_BYTES = 2, 4
# Packings by which a module's file is chosen, the best compromise first: four bits with the least
# loss, then more bits, then fewer, then none.
PREFERRED = (
    *("Q4_K_M", "Q4_K_S", "Q4_K_XL", "Q4_K_L", "Q4_K", "MXFP4", "MXFP4_MOE", "Q4_1", "Q4_0", "Q4"),
    *("IQ4_NL", "IQ4_XS", "Q5_K_M", "Q5_K_S", "Q5_K", "Q5_1", "Q5_0", "Q5", "Q6_K", "Q6", "Q8_0"),
    *("Q8", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q3_K", "Q2_K", "BF16", "F16", "F32"),
)
# Architectures that llama.cpp loads but that write no text token by token: encoders, diffusion
# language models, projectors, parts of speech models and draft models.
WRITELESS = frozenset(
    ("bert", "clip", "dream", "eurobert", "gemma-embedding", "gemma-embedding2", "jina-bert-v2")
) | {
    *("jina-bert-v3", "llada", "llada-moe", "llama-embed", "modern-bert", "neo-bert", "rnd1"),
    *("nomic-bert", "nomic-bert-moe", "pockettts", "qwen3tts", "t5", "t5encoder"),
    *("gemma4-assistant", "wavtokenizer-dec"),
}
# Encoders of texts: llama.cpp computes nothing but vectors with them.
ENCODERS = frozenset(
    ("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed")
) | {"modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"}
# How a header says that the vectors of a text's tokens become one, by llama.cpp's numbers.
POOLINGS = {1: "mean", 2: "cls", 3: "last"}
RANKS = 4  # one score, not a vector
# Rankers, by how their query and text become one (`pairs`): those that give what the model gives in
# its own library.
RANKERS = {"bert": "marks", "qwen3": "template"}
# A decoder that ranks has the logits of all tokens of a pair, which it reads at once.
RANKED_TOKENS = 2048


@cache
def known() -> frozenset[str]:
    """Return the architectures that the pinned llama.cpp loads."""
    read = json.loads((files("models") / "llama_cpp.json").read_text(encoding="utf-8"))
    return frozenset(read["architectures"])


def writes(architecture: str) -> bool:
    """Return whether the pinned llama.cpp generates text with this architecture."""
    return architecture in known() - WRITELESS


def pooling_of(facts: Facts) -> str | None:
    """Return the pooling of a text's token vectors; None if the header names none."""
    return POOLINGS.get(size(facts, "pooling_type"))


def embeds(facts: Facts) -> bool:
    """Return whether the pinned llama.cpp computes one vector for a text with this model.

    Converters write the pooling for models of sentence-transformers alone.
    """
    architecture = facts["architecture"]
    servable = architecture in known() & ENCODERS or writes(architecture)
    return servable and pooling_of(facts) is not None


def ranks(facts: Facts) -> bool:
    """Return whether the pinned llama.cpp gives the scores that the model was trained to give."""
    is_ranker = size(facts, "pooling_type") == RANKS and facts.get("scores")
    return bool(is_ranker and RANKERS.get(facts["architecture"]) == facts.get("pairs"))


def batch_of(facts: Facts, tokens: int) -> int:
    """Return the tokens that an embedder reads at once; only causal attention permits parts."""
    causal = facts["architecture"] not in ENCODERS and facts.get("attention.causal", 1)
    return min(BATCH, tokens) if causal and pooling_of(facts) == "last" else tokens


def tokens_of(facts: Facts) -> int:
    """Return the context of a module in tokens: the model's own, within the usual bound."""
    is_wide = size(facts, "pooling_type") == RANKS and facts["architecture"] not in ENCODERS
    return min(
        size(facts, "context_length") or USUAL_TOKENS, RANKED_TOKENS if is_wide else MAX_TOKENS
    )


def footprint(facts: Facts, tokens: int) -> Footprint:
    """Return the memory in bytes that a context of so many tokens takes beside the weights."""
    hidden = size(facts, "embedding_length")
    heads = size(facts, "attention.head_count")
    experts = size(facts, "expert_used_count") * size(facts, "expert_feed_forward_length")
    experts += size(facts, "expert_shared_feed_forward_length")
    inner = max(size(facts, "feed_forward_length"), experts)
    inner = max(inner, 2 * size(facts, "ssm.inner_size"))
    lengths = heads * sum(head_lengths(facts))
    activations = BATCH * (8 * hidden + 3 * inner + 2 * lengths) * COMPUTED_BYTES
    return Footprint(
        cache=cache_bytes(facts, tokens) + state_bytes(facts),
        logits=BATCH * size(facts, "vocabulary") * COMPUTED_BYTES,
        activations=activations + BATCH * rounded(tokens) * (COMPUTED_BYTES + 2),
    )


def embedding_footprint(facts: Facts, tokens: int) -> Footprint:
    """Return the memory in bytes that an embedder takes beside the weights for so many tokens."""
    batch, usual = rounded(batch_of(facts, tokens)), footprint(facts, tokens)
    mask = batch * rounded(tokens) * CACHED_BYTES
    if facts["architecture"] in ENCODERS:
        inner = size(facts, "feed_forward_length") * max(size(facts, "expert_used_count"), 1)
        numbers = 6 * size(facts, "embedding_length") + 2 * inner
        return Footprint(cache=0, logits=0, activations=batch * numbers * COMPUTED_BYTES + mask)
    mask += batch * rounded(tokens) * COMPUTED_BYTES
    per_batch = usual.activations - BATCH * rounded(tokens) * (COMPUTED_BYTES + CACHED_BYTES)
    return Footprint(
        cache=usual.cache,
        logits=usual.logits * 2 * batch // BATCH,
        activations=per_batch * batch // BATCH + mask,
    )


def cache_bytes(facts: Facts, tokens: int) -> int:
    """Return the size of the key-value cache."""
    layers, window = size(facts, "block_count"), size(facts, "attention.sliding_window")
    heads = facts.get("attention.head_count_kv") or facts.get("attention.head_count") or 0
    sliding = facts.get("attention.sliding_window_pattern")
    # Where the header does not list the layers with a window, all count as without one.
    windows = list(map(bool, sliding[:layers])) if window and isinstance(sliding, list) else []
    # A header writes the heads of all layers once, or as a list. A number is multiplied, never
    # repeated in a list: an owner may write any number of layers.
    if isinstance(heads, list):
        total, within = sum(heads[:layers]), sum(compress(heads[:layers], windows))
    else:
        total, within = heads * layers, heads * sum(windows)
    whole = rounded(tokens)
    kept: int = whole * (total - within) + min(whole, rounded(window + BATCH)) * within
    return kept * sum(head_lengths(facts)) * CACHED_BYTES


def state_bytes(facts: Facts) -> int:
    """Return the size of the states of recurrent layers, as if each layer had one."""
    inner, width = size(facts, "ssm.inner_size"), size(facts, "ssm.state_size")
    convolved = inner + 2 * size(facts, "ssm.group_count") * width
    state = inner * width + convolved * size(facts, "ssm.conv_kernel")
    hidden = size(facts, "embedding_length")
    state += hidden * (size(facts, "wkv.head_size") or size(facts, "kda.head_dim"))
    return state * size(facts, "block_count") * COMPUTED_BYTES


def head_lengths(facts: Facts) -> tuple[int, int]:
    """Return the widest key and value of a head."""
    usual = size(facts, "embedding_length") // max(size(facts, "attention.head_count"), 1)
    key, value = (
        max(size(facts, f"attention.{name}{kind}") for kind in ("", "_swa"))
        for name in ("key_length", "value_length")
    )
    return key or usual, value or usual


def size(facts: Facts, key: str) -> int:
    """Return a number of the header, of a list the largest; 0 if it is missing."""
    value = facts.get(key, 0)
    return int(max(value, default=0) if isinstance(value, list) else value)


def rounded(tokens: int) -> int:
    return -(-tokens // CACHE_STEP) * CACHE_STEP
