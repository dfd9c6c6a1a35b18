"""Makers of small working models of sounds, pictures, videos, tables and series."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
    EncodecConfig,
    GenerationConfig,
    GPT2Config,
    LayoutLMConfig,
    LayoutLMForQuestionAnswering,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SuperPointConfig,
    SuperPointForKeypointDetection,
    SuperPointImageProcessor,
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    Swin2SRImageProcessor,
    SwinConfig,
    T5Config,
    TapasConfig,
    TapasForQuestionAnswering,
    TapasTokenizer,
    TimesFmConfig,
    TimesFmModelForPrediction,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
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
    bert_config,
    byte_pair_tokenizer,
    word_piece_tokenizer,
    write_json,
)

SMALL = {"height": 32, "width": 32}
HEARS: dict[str, Any] = {
    **TINY,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 8, 8),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def labelled(*labels: str) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def speller(folder: Path) -> None:
    """A wav2vec 2.0 that spells what it hears."""
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    write_json(folder / "vocab.json", {letter: number for number, letter in enumerate(letters)})
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(letters), **HEARS)).save_pretrained(folder)


def sound_classifier(folder: Path) -> None:
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = Wav2Vec2Config(**HEARS, **labelled("croak", "splash", "wind"))
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)


def speaker(folder: Path) -> None:
    """A VITS that reads letters."""
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
        noise_scale=0.0,  # without chance: the same text always sounds the same
        noise_scale_duration=0.0,
    )
    VitsModel(config).save_pretrained(folder)


def composer(folder: Path) -> None:
    """A MusicGen, whose pieces are a third of a second long."""
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


def rewriter(folder: Path) -> None:
    """A BART."""
    byte_pair_tokenizer().save_pretrained(folder)
    special = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 1,
    }
    config = BartConfig(
        vocab_size=len(byte_pair_tokenizer()),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=2 * CONTEXT,
        **special,
    )
    model = BartForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**special)
    model.save_pretrained(folder)


def reader(folder: Path) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    BertForQuestionAnswering(bert_config(len(tokenizer))).save_pretrained(folder)


def chooser(folder: Path) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    BertForMultipleChoice(bert_config(len(tokenizer))).save_pretrained(folder)


def clip(folder: Path) -> None:
    tokenizer = byte_pair_tokenizer()
    size = {"shortest_edge": 32}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=SMALL), tokenizer).save_pretrained(folder)
    config = CLIPConfig(
        text_config={
            **TINY,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 2 * CONTEXT,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
        vision_config={**TINY, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    CLIPModel(config).save_pretrained(folder)


def finder(folder: Path) -> None:
    """An OWL-ViT."""
    tokenizer = byte_pair_tokenizer()
    tokenizer.model_max_length = 16
    OwlViTProcessor(
        OwlViTImageProcessor(size=SMALL, crop_size=SMALL, do_center_crop=False), tokenizer
    ).save_pretrained(folder)
    config = OwlViTConfig(
        text_config={**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**TINY, "image_size": 32, "patch_size": 8},
        projection_dim=64,
    )
    OwlViTForObjectDetection(config).save_pretrained(folder)


def segmenter(folder: Path) -> None:
    SegformerImageProcessor(size=SMALL).save_pretrained(folder)
    config = SegformerConfig(
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=32,
        **labelled("frog", "pond", "sky"),
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)


def panoptic_segmenter(folder: Path) -> None:
    """A Mask2Former, sure enough of what it sees that something is left of it."""
    Mask2FormerImageProcessorPil(size=SMALL, ignore_index=255).save_pretrained(folder)
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=2,
            image_size=32,
            patch_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_attention_heads=2,
        encoder_layers=2,
        decoder_layers=3,
        num_queries=5,
        **labelled("frog", "pond", "sky"),
    )
    model = Mask2FormerForUniversalSegmentation(config)
    model.class_predictor.bias.data = torch.tensor([0.0, 20.0, 0.0, 0.0])
    model.save_pretrained(folder)


def depth_estimator(folder: Path) -> None:
    DPTImageProcessor(size=SMALL).save_pretrained(folder)
    config = DPTConfig(
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 16, 16],
        fusion_hidden_size=16,
        is_hybrid=False,
        **{**TINY, "num_hidden_layers": 4},
    )
    DPTForDepthEstimation(config).save_pretrained(folder)


def upscaler(folder: Path) -> None:
    Swin2SRImageProcessor(size_divisor=8).save_pretrained(folder)
    config = Swin2SRConfig(
        image_size=16, patch_size=1, embed_dim=16, depths=[1], num_heads=[2], window_size=8
    )
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)


def keypoint_finder(folder: Path) -> None:
    SuperPointImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    config = SuperPointConfig(
        encoder_hidden_sizes=[16, 16, 16, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
        keypoint_threshold=0.0,
        max_keypoints=20,
    )
    SuperPointForKeypointDetection(config).save_pretrained(folder)


def video_classifier(folder: Path) -> None:
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=SMALL).save_pretrained(folder)
    config = VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, **TINY, **labelled("jump", "swim", "sleep")
    )
    VideoMAEForVideoClassification(config).save_pretrained(folder)


def picture_asker(folder: Path) -> None:
    """A ViLT."""
    tokenizer = word_piece_tokenizer()
    tokenizer.model_max_length = 40
    images = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16)
    ViltProcessor(images, tokenizer).save_pretrained(folder)
    config = ViltConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=40,
        image_size=64,
        patch_size=16,
        **TINY,
        **labelled("yes", "no", "two", "green"),
    )
    ViltForQuestionAnswering(config).save_pretrained(folder)


def page_reader(folder: Path) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LayoutLMConfig(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **TINY)
    LayoutLMForQuestionAnswering(config).save_pretrained(folder)


def table_reader(folder: Path) -> None:
    words = word_piece_tokenizer().get_vocab()
    words["[EMPTY]"] = len(words)
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n")
    TapasTokenizer(str(folder / "vocab.txt"), model_max_length=CONTEXT).save_pretrained(folder)
    config = TapasConfig(vocab_size=len(words), max_position_embeddings=CONTEXT, **TINY)
    TapasForQuestionAnswering(config).save_pretrained(folder)


def forecaster(folder: Path) -> None:
    config = TimesFmConfig(
        patch_length=8,
        context_length=32,
        horizon_length=16,
        head_dim=16,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    TimesFmModelForPrediction(config).save_pretrained(folder)


def captioner(folder: Path) -> None:
    """A ViT that is read by a GPT-2."""
    tokenizer = byte_pair_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size=SMALL).save_pretrained(folder)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(image_size=32, patch_size=8, **TINY),
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=CONTEXT,
            **special,
        ),
    )
    config.decoder_start_token_id, config.pad_token_id = 0, 2
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(**special, decoder_start_token_id=0)
    model.save_pretrained(folder)


def seer(folder: Path) -> None:
    """A LLaVA."""
    tokenizer = byte_pair_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SMALL),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **TINY),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=2 * CONTEXT, **TINY, **special
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**special)
    model.save_pretrained(folder)


def listener(folder: Path) -> None:
    """A Qwen2-Audio."""
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
