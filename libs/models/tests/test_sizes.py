"""Memory in addition to the weights, against the bytes that transformers really allocates."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models import config as configs
from models import sizes
from models.cache import cache_bytes
from models.tasks import LIBRARIES

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from tiny import kept_bytes

TASKS = LIBRARIES["transformers"]
TOKENS, BATCH = 24, 2
SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
SEEN = {**SMALL, "image_size": 32, "patch_size": 8}
DECODERS: dict[str, Any] = {
    "every head": ("Gpt2", lambda: transformers.GPT2Config(n_embd=64, n_layer=3, n_head=4)),
    "shared heads": (
        "Llama",
        lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2, head_dim=32),
    ),
    "windows": (
        "Gemma3",
        lambda: transformers.Gemma3TextConfig(
            **{**SMALL, "num_hidden_layers": 8},
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=8,
        ),
    ),
    "one head for all": ("GptBigCode", lambda: transformers.GPTBigCodeConfig(n_embd=64, n_head=4)),
    "one head for all, before": (
        "Falcon",
        lambda: transformers.FalconConfig(**SMALL, alibi=False),
    ),
    "shared heads, kept for each": (
        "Falcon",
        lambda: transformers.FalconConfig(**SMALL, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "windows in each layer": (
        "Mistral",
        lambda: transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8),
    ),
    "windows in every other layer": (
        "Gemma2",
        lambda: transformers.Gemma2Config(**{**SMALL, "num_attention_heads": 8}, sliding_window=8),
    ),
    "windows in all layers but every so many": (
        "Cohere2",
        lambda: transformers.Cohere2Config(
            **{**SMALL, "num_hidden_layers": 7}, num_key_value_heads=2, sliding_window=8
        ),
    ),
    "attention in one layer of several": (
        "Jamba",
        lambda: transformers.JambaConfig(
            **SMALL, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=1
        ),
    ),
    "latent attention": (
        "DeepseekV3",
        lambda: transformers.DeepseekV3Config(
            **SMALL,
            num_key_value_heads=4,
            q_lora_rank=16,
            kv_lora_rank=8,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=12,
            first_k_dense_replace=3,
        ),
    ),
}
MIXED = {**SMALL, "num_hidden_layers": 4}
# The kinds of layers are named as in the configs on the Hub.
HYBRIDS: dict[str, Any] = {
    "FalconH1": (
        lambda: transformers.FalconH1Config(
            **SMALL, num_key_value_heads=2, head_dim=32, mamba_d_ssm=64, mamba_n_heads=4
        ),
        {},
    ),
    "GraniteMoeHybrid": (
        lambda: transformers.GraniteMoeHybridConfig(
            **MIXED,
            num_key_value_heads=2,
            layer_types=["linear_attention", "full_attention"] * 2,
            mamba_n_heads=8,
            num_local_experts=0,
            shared_intermediate_size=96,
        ),
        {"layer_types": ["mamba", "attention"] * 2},
    ),
    "Bamba": (
        lambda: transformers.BambaConfig(
            **MIXED, num_key_value_heads=2, attn_layer_indices=[0], mamba_n_heads=8
        ),
        {"layer_types": None, "layers_block_type": None},
    ),
    "NemotronH": (
        lambda: transformers.NemotronHConfig(
            **{**MIXED, "num_hidden_layers": None},
            num_key_value_heads=2,
            head_dim=16,
            layer_types=["linear_attention", "mlp", "full_attention", "mlp"],
            mamba_num_heads=8,
            mamba_head_dim=16,
        ),
        {"layer_types": None, "num_hidden_layers": 4, "hybrid_override_pattern": "M-*-"},
    ),
    "Zamba2": (
        lambda: transformers.Zamba2Config(
            **MIXED,
            num_key_value_heads=4,
            layers_block_type=["linear_attention", "hybrid"] * 2,
            n_mamba_heads=2,
            mamba_expand=2,
        ),
        {"layers_block_type": ["mamba", "hybrid"] * 2},
    ),
    "Gemma4Text": (
        lambda: transformers.Gemma4TextConfig(
            **{**SMALL, "num_hidden_layers": 8},
            vocab_size_per_layer_input=64,
            num_key_value_heads=2,
            head_dim=16,
            global_head_dim=32,
            num_global_key_value_heads=1,
            attention_k_eq_v=True,
            sliding_window=8,
            num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 4,
        ),
        {"global_head_dim": 32, "num_global_key_value_heads": 1},
    ),
}
REWRITERS: dict[str, Any] = {
    "Bart": lambda: transformers.BartConfig(
        vocab_size=64,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=8,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
    ),
    "T5": lambda: transformers.T5Config(
        vocab_size=64, d_model=64, d_kv=24, d_ff=96, num_layers=2, num_decoder_layers=3, num_heads=4
    ),
}


def kept(config: Any) -> int | None:
    """Return the cache size in bytes that the generator computes from a pushed config.

    Most leave out what is as the library has it, and those from before what it adds today.
    """
    kinds = set()
    for written in (config.to_json_string(use_diff=False), config.to_json_string()):
        older = json.dumps({k: v for k, v in json.loads(written).items() if k != "layer_types"})
        for text in (written, older):
            read = configs.read(json.loads(text))
            kinds.add(cache_bytes(read, batch=BATCH, tokens=TOKENS, width=4))
    assert len(kinds) == 1, kinds
    return kinds.pop()


@pytest.mark.parametrize("kind", DECODERS)
def test_the_cache_of_a_decoder_is_computed_to_the_byte(kind: str) -> None:
    config = DECODERS[kind][1]()
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.full((BATCH, TOKENS), 7)
    with torch.inference_mode():
        cache = model(tokens, use_cache=True).past_key_values
    assert kept_bytes(cache) == kept(config)


@pytest.mark.parametrize("kind", HYBRIDS)
def test_the_cache_of_a_hybrid_decoder_is_computed_to_the_byte(kind: str) -> None:
    config, written = HYBRIDS[kind][0](), HYBRIDS[kind][1]
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.full((BATCH, TOKENS), 7)
    with torch.inference_mode():
        cache = model(tokens, use_cache=True).past_key_values
    hub = {**json.loads(config.to_json_string(use_diff=False)), **written}
    read = configs.read(hub)
    assert kept_bytes(cache) == cache_bytes(read, batch=BATCH, tokens=TOKENS, width=4) > 0


@pytest.mark.parametrize("kind", REWRITERS)
def test_the_cache_of_a_decoder_with_cross_attention_is_computed_to_the_byte(kind: str) -> None:
    config = REWRITERS[kind]()
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    tokens = torch.full((BATCH, TOKENS), 7)
    with torch.inference_mode():
        cache = model(tokens, decoder_input_ids=tokens, use_cache=True).past_key_values
    assert kept_bytes(cache) == kept(config)


def test_the_cache_of_a_speech_recogniser_is_computed_to_the_byte() -> None:
    config = transformers.WhisperConfig(
        vocab_size=64,
        num_mel_bins=8,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_source_positions=TOKENS,
        max_target_positions=TOKENS // 2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    features, tokens = torch.zeros(BATCH, 8, 2 * TOKENS), torch.full((BATCH, TOKENS // 2), 7)
    with torch.inference_mode():
        cache = model(features, decoder_input_ids=tokens, use_cache=True).past_key_values
    read = configs.read(json.loads(config.to_json_string()))
    task = TASKS["automatic-speech-recognition"]
    assert sizes.tokens_of(read, task) == TOKENS
    assert of(task, read, batch=BATCH, tokens=TOKENS, width=4).cache == kept_bytes(cache)


def test_music_generation_caches_a_conditional_and_an_unconditional_pass() -> None:
    # Sizes of musicgen-small: 24 layers of width 1,024, 2,048 tokens generated and as many read.
    decoder = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = configs.complete(configs.reduce({"model_type": "musicgen", "decoder": decoder}))
    task = TASKS["text-to-audio"]
    tokens = sizes.tokens_of(config, task)
    footprint = of(task, config, tokens=tokens)
    assert footprint.cache == 2 * (2 * 24 * 1024) * (2048 + 2048) * 2
    assert (footprint.activations, footprint.guessed) == (sizes.MUSIC * 2, set())


def test_each_beam_has_a_cache_of_its_own() -> None:
    bart = configs.complete(configs.reduce(json.loads(REWRITERS["Bart"]().to_json_string())))
    task = TASKS["summarization"]
    single, four = of(task, bart), of(task, {**bart, "num_beams": 4})
    assert (four.cache, four.logits) == (4 * single.cache, 4 * single.logits)
    assert four.activations == single.activations


def of(task: Any, config: dict[str, Any], **more: Any) -> sizes.Footprint:
    arguments = {"batch": 1, "tokens": 100, "width": 2, "eager": False, "weights": 0, **more}
    return sizes.footprint(config, task, **arguments)


def test_a_vision_language_model_has_the_sizes_of_its_parts() -> None:
    text = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = {"model_type": "llava", "text_config": text, "vision_config": SEEN}
    read = configs.reduce(config)
    task = TASKS["image-text-to-text"]
    assert sizes.tokens_of(read, task) == 512
    footprint = of(task, read)
    assert footprint.cache == 2 * 3 * 2 * 16 * 100 * 2
    assert footprint.logits == 64 * 4
    assert not footprint.guessed


@pytest.mark.parametrize(
    ("kind", "task", "most"),
    [
        # The limit of the text, whether a question or labels; the image has its own tokens.
        ("vilt", "visual-question-answering", 40),
        ("blip", "visual-question-answering", 512),
        ("clip", "zero-shot-image-classification", 77),
        ("owlvit", "zero-shot-object-detection", 16),
        ("layoutlm", "document-question-answering", 512),
        ("vit", "image-classification", (224 // 16) ** 2 + 1),
    ],
)
def test_the_longest_input_of_a_multimodal_model_is_its_own_limit(
    kind: str, task: str, most: int
) -> None:
    config = configs.complete({"model_type": kind})
    row = TASKS[task]
    assert sizes.tokens_of(config, row) == most


def test_only_fill_mask_has_logits_for_every_token() -> None:
    assert of(TASKS["fill-mask"], SMALL).logits == 100 * 64 * 4
    assert of(TASKS["text-generation"], SMALL).logits == 64 * 4


def test_the_memory_of_eager_attention_grows_with_the_square_of_the_tokens() -> None:
    plain, eager = (
        of(TASKS["text-classification"], SMALL, eager=eager).activations for eager in (False, True)
    )
    assert eager - plain == 4 * 100**2 * 4


def test_an_image_of_twice_the_side_takes_four_times_the_memory() -> None:
    def painted(side: int) -> int:
        config = {
            "denoiser": {"sample_size": side, "block_out_channels": [320, 640]},
            "vae": {"block_out_channels": [128, 256, 512, 512]},
        }
        return of(LIBRARIES["diffusers"]["text-to-image"], config).activations

    assert painted(128) == 4 * painted(64)
    # Stable Diffusion's decoder at 512 x 512 in half precision: four maps of 256 channels.
    assert painted(64) == 512**2 * 256 * 4 * 2


def test_sizes_missing_from_the_config_are_reported_as_guessed() -> None:
    footprint = of(TASKS["text-classification"], {}, weights=2**30)
    assert (footprint.guessed, footprint.activations) == ({"activations"}, 2**28)
    footprint = of(TASKS["text-generation"], {"hidden_size": 64}, weights=2**30)
    assert (footprint.guessed, footprint.cache) == ({"cache", "logits"}, 100 * 2**30 // 6144)


def test_a_part_without_sizes_gets_the_defaults_of_its_own_architecture() -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    footprint = of(TASKS["image-text-to-text"], configs.complete(config), tokens=4096)
    # 32 layers, 32 heads of 128.
    assert (footprint.cache, footprint.guessed) == (2 * 32 * 32 * 128 * 4096 * 2, set())
    gemma = configs.complete({"model_type": "gemma3", "text_config": {"num_hidden_layers": 34}})
    assert gemma["text_config"]["num_key_value_heads"] == 4
    assert sizes.tokens_of(gemma, TASKS["image-text-to-text"]) == sizes.MAX_TOKENS


@pytest.mark.parametrize("absurd", [-(2**62), 0, 2**62, True, [320], "320", None])
def test_an_absurd_size_is_ignored(absurd: Any) -> None:
    config = {
        "denoiser": {"sample_size": 64, "block_out_channels": [absurd]},
        "vae": {"block_out_channels": [absurd, 256, 512, 512]},
    }
    plain = {"denoiser": {"sample_size": 64}, "vae": {"block_out_channels": [None] * 4}}
    task = LIBRARIES["diffusers"]["text-to-image"]
    assert of(task, config) == of(task, plain)
    text = {"num_hidden_layers": 6, "num_attention_heads": 2, "hidden_size": 8}
    layers = {"layer_types": ["full_attention"], "sliding_window_pattern": absurd}
    assert of(TASKS["text-generation"], {**text, **layers}).cache == (
        of(TASKS["text-generation"], text).cache
    )


def test_the_kinds_of_any_number_of_layers_are_stored_as_counts() -> None:
    read = configs.reduce({"layer_types": ["sliding_attention"] * 100_000 + ["EVIL"]})
    assert read["layer_types"] == {
        # An unknown kind counts as the kind that caches most.
        "full_attention": 1,
        "sliding_attention": 100_000,
        "chunked_attention": 0,
        "linear_attention": 0,
    }


def test_text_and_vision_sizes_may_share_one_config() -> None:
    # Sizes of Qwen2.5-VL-3B-Instruct.
    config = {
        "model_type": "qwen2_5_vl",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_position_embeddings": 128_000,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 2,
        "vision_config": {"hidden_size": 1280, "num_heads": 16, "patch_size": 14},
        "vocab_size": 151_936,
    }
    read = configs.complete(configs.reduce(config))
    footprint = of(TASKS["image-text-to-text"], read, tokens=4096)
    assert (footprint.cache, footprint.logits) == (2 * 36 * 2 * 128 * 4096 * 2, 151_936 * 4)
    # The same config inside another model's, as in ColQwen2's.
    assert (
        configs.complete({"model_type": "colqwen2", "vlm_config": config})["vlm_config"][
            "text_config"
        ]
        == configs.complete(config)["text_config"]
    )


def test_an_encoders_own_limit_is_its_longest_input() -> None:
    led = configs.read({"model_type": "led", "max_encoder_position_embeddings": 4096})
    assert sizes.tokens_of(led, TASKS["summarization"]) == 4096
    assert sizes.max_tokens_of(configs.read({"model_type": "led"}), TASKS["translation"]) == 16_384


def test_layers_with_windows_switched_off_cache_all_tokens() -> None:
    config = {"model_type": "qwen3_moe", **SMALL, "head_dim": 16, "use_sliding_window": False}
    read = configs.read(config)
    assert cache_bytes(read, batch=1, tokens=8192, width=2) == 3 * 2 * 4 * 16 * 8192 * 2
