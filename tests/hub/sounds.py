"""Makers of small working audio models."""

from pathlib import Path
from typing import Any

from transformers import (
    EncodecConfig,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    T5Config,
    VitsConfig,
    VitsModel,
    VitsTokenizer,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Processor,
    WhisperFeatureExtractor,
)

from hub.families import (
    CONTEXT,
    TINY,
    byte_pair_tokenizer,
    write_json,
)
from hub.media import labelled

WAV2VEC2_CONFIG: dict[str, Any] = {
    **TINY,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 8, 8),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def speller(folder: Path) -> None:
    """Make a wav2vec 2.0 model, which transcribes letter by letter."""
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    write_json(folder / "vocab.json", {letter: number for number, letter in enumerate(letters)})
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(letters), **WAV2VEC2_CONFIG)).save_pretrained(
        folder
    )


def sound_classifier(folder: Path) -> None:
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = Wav2Vec2Config(**WAV2VEC2_CONFIG, **labelled("croak", "splash", "wind"))
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)


def speaker(folder: Path) -> None:
    """Make a VITS model with a vocabulary of letters."""
    letters = "_ abcdefghijklmnopqrstuvwxyz"
    write_json(folder / "vocab.json", {letter: number for number, letter in enumerate(letters)})
    tokenizer = VitsTokenizer(
        str(folder / "vocab.json"), pad_token="_", phonemize=False, normalize=True
    )
    tokenizer.save_pretrained(folder)
    config = VitsConfig(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=1,
        ffn_dim=32,
        flow_size=32,
        spectrogram_bins=17,
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1,
        duration_predictor_filter_channels=32,
        depth_separable_num_layers=1,
        upsample_initial_channel=32,
        upsample_rates=[8, 4],
        upsample_kernel_sizes=[16, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        sampling_rate=16_000,
        noise_scale=0.0,  # deterministic: the same text always sounds the same
        noise_scale_duration=0.0,
    )
    VitsModel(config).save_pretrained(folder)


def composer(folder: Path) -> None:
    """Make a MusicGen model, whose pieces last a third of a second."""
    tokenizer = byte_pair_tokenizer()
    tokenizer.save_pretrained(folder)
    config = MusicgenConfig(
        text_encoder=T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4
        ).to_dict(),
        audio_encoder=EncodecConfig(
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            codebook_size=64,
            target_bandwidths=[1.5],
            num_lstm_layers=1,
        ).to_dict(),
        decoder=MusicgenDecoderConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            num_codebooks=2,
            pad_token_id=64,
            bos_token_id=64,
        ).to_dict(),
    )
    model = MusicgenForConditionalGeneration(config)
    starts = dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id"), 64)
    model.generation_config.update(max_length=24, do_sample=True, guidance_scale=3.0, **starts)
    model.save_pretrained(folder)


def listener(folder: Path) -> None:
    """Make a Qwen2-Audio model."""
    tokenizer = byte_pair_tokenizer()
    special = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    template = (
        "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
        "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    Qwen2AudioProcessor(
        WhisperFeatureExtractor(feature_size=16, chunk_length=2), tokenizer, chat_template=template
    ).save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "d_model": 64,
            "max_source_positions": 100,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4 * CONTEXT,
            "num_key_value_heads": 2,
            **TINY,
            **ends,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
