"""Size in bytes of a decoder's cache, as the caches of transformers store it.

attention         2 x key/value heads x head size x tokens x bytes per layer (GPT-2 and after;
Shazeer 2019 for one shared head, Ainslie et al. 2023 for groups)
latent attention  (rank + rotary size) x tokens x bytes (DeepSeek-V2, section 2.1)
indexed attention the index's key x tokens x bytes beside those (DeepSeek-V3.2)
windows           min(tokens, window - 1) in place of tokens: the newest token is not looked
back on (transformers.cache_utils.DynamicSlidingWindowLayer)
cross-attention   as much again for the encoder's tokens, in each decoder layer
recurrent layers  a state whose size does not depend on the tokens (`states`)
"""

from models.config import Config, count_layers, hidden_size, number, sight_part, text_part
from models.states import state_bytes

LAYER_FIELDS = (
    *("decoder_layers", "num_decoder_layers", "num_hidden_layers", "n_layer"),
    *("n_layers", "num_layers"),
)
HEADS = (
    *("decoder_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("num_decoder_attention_heads", "attention_heads"),
)
# Head size of Gemma 4's layers with full attention, if the config omits it.
GLOBAL_HEAD = 512
IMAGE_TOKENS = 1024
# Bidirectional, and thus without a cache, unless their config sets is_decoder.
ENCODERS = frozenset(
    ("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert")
) | {
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}
# Models that process the whole text again for each new token.
WITHOUT_CACHE = frozenset(("openai-gpt", "xlm"))
# Their layers cache in ways that no formula here covers.
UNKNOWN = frozenset(("dots3_note", "dots3_note_text"))


def image_tokens(config: Config) -> int:
    """Return the number of an image's patches, plus the class token."""
    image, patch = number(config, "image_size"), number(config, "patch_size")
    return (image // patch) ** 2 + 1 if image and patch else IMAGE_TOKENS


def cache_bytes(config: Config, *, batch: int, tokens: int, width: int) -> int | None:
    """Return the bytes of a decoder's keys and values, including those of an encoder's tokens.

    None if the config does not give the number of layers and heads.
    """
    text = text_part(config)
    kind = str(text.get("model_type"))
    if kind in WITHOUT_CACHE or (kind in ENCODERS and text.get("is_decoder") is not True):
        return 0
    kinds = kinds_of_layers(text)
    if kinds is None or kind in UNKNOWN:
        return None
    states = state_bytes(text, layers=kinds["linear_attention"], width=width)
    full = kinds["full_attention"]
    near = kinds["sliding_attention"] + kinds["chunked_attention"]
    if not full and not near:
        return batch * states
    if not number(text, *HEADS) or not hidden_size(text):
        return None
    written = min(tokens, number(text, "max_target_positions") or tokens)
    if kind == "cpmant":  # its prompt precedes every text
        written += number(text, "prompt_length") or 0
    far_positions = full * written
    if _reads_an_encoder(config, text):
        far_positions += (full + near) * tokens
    elif "decoder" in config:
        far_positions += (full + near) * image_tokens(sight_part(config))
    numbers = _full_layer(text) * far_positions
    numbers += _near_layer(text) * near * _window(text, written)
    # LongCat's layers have two attentions each.
    numbers *= 2 if kind == "longcat_flash" else 1
    numbers += (number(text, "index_head_dim") or 0) * far_positions
    return batch * (numbers * width + states)


def kinds_of_layers(text: Config) -> dict[str, int] | None:
    """Count the layers by kind of attention; None if the config does not give their number."""
    layers = number(text, *LAYER_FIELDS)
    kinds = text.get("layer_types")
    if not isinstance(kinds, dict) and layers is None:
        return None
    if not isinstance(kinds, dict) and (every := number(text, "attn_layer_period")):
        full = len(range(number(text, "attn_layer_offset") or 0, layers or 0, every))
        linear = (layers or 0) - full
        return count_layers([]) | {"full_attention": full, "linear_attention": linear}
    if isinstance(kinds, list):  # a pattern: `configs.complete`
        layers = max((layers or 0) - (number(text, "num_kv_shared_layers") or 0), 0)
        if every := number(text, "sliding_window_pattern"):
            full = layers // every
            counts = count_layers(["full_attention"])
            return counts | {"full_attention": full, "sliding_attention": layers - full}
        times, rest = divmod(layers, len(kinds))
        once, more = count_layers(kinds), count_layers(kinds[:rest])
        return {kind: times * once[kind] + more[kind] for kind in once}
    none = count_layers([])
    if isinstance(kinds, dict):
        return none | kinds
    return none | {"sliding_attention": layers or 0}


def _reads_an_encoder(config: Config, text: Config) -> bool:
    """Return whether the layers also attend to an encoder's output."""
    named = config.get("architectures")
    if isinstance(named, list) and any(str(name).endswith("ForCausalLM") for name in named):
        return False
    reads = config.get("model_type") in ("t5", "musicgen")
    return reads or bool(number(text, "decoder_layers", "num_decoder_layers"))


def _window(text: Config, tokens: int) -> int:
    """Return how many of the tokens a layer with sliding-window attention caches."""
    window = number(text, "sliding_window", "attention_chunk_size")
    if window is None or text.get("use_sliding_window") is False:
        return tokens
    # A window of n tokens includes the newest, so that n - 1 are cached.
    return window - 1 if window < tokens else tokens


def _shared_heads(text: Config) -> int:
    # Falcon's later models share keys too, but cache them for each head.
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return 1
    return number(text, "num_key_value_heads") or number(text, *HEADS) or 1


def _head(text: Config) -> int:
    named = number(text, "head_dim", "attention_head_dim", "d_kv", "kv_channels")
    return named or max((hidden_size(text) or 1) // (number(text, *HEADS) or 1), 1)


def _layer(text: Config) -> int:
    """Return how many numbers a layer caches per token, if all layers have the same sizes."""
    latent, rope = number(text, "kv_lora_rank"), number(text, "qk_rope_head_dim")
    if latent and rope:
        return latent + rope
    if str(text.get("model_type")).startswith("mimo_v2"):  # its values are narrower than its keys
        return _shared_heads(text) * (_head(text) + (number(text, "v_head_dim") or _head(text)))
    return 2 * _shared_heads(text) * _head(text)


def _full_layer(text: Config) -> int:
    """Return `_layer` for full attention, which may have its own sizes."""
    usual = GLOBAL_HEAD if str(text.get("model_type")).startswith("gemma4") else None
    if not (own := number(text, "global_head_dim") or usual):
        return _layer(text)
    shared = _shared_heads(text)
    if text.get("attention_k_eq_v") is True:
        shared = number(text, "num_global_key_value_heads") or shared
    return 2 * shared * own


def _near_layer(text: Config) -> int:
    """Return `_layer` for sliding-window attention, which may have its own sizes."""
    if str(text.get("model_type")).startswith("mimo_v2"):  # twice the heads, by its class
        return 2 * _layer(text)
    if shared := number(text, "swa_num_key_value_heads"):
        return 2 * shared * (number(text, "swa_head_dim") or _head(text))
    return _layer(text)
