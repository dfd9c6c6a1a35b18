"""Makers of small working models for text, images, video, tables and series."""

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
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
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
)

from hub.families import (
    CONTEXT,
    TINY,
    bert_config,
    byte_pair_tokenizer,
    word_piece_tokenizer,
)

SMALL = {"height": 32, "width": 32}


def labelled(*labels: str) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def rewriter(folder: Path) -> None:
    """Make a BART."""
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
    """Make an OWL-ViT."""
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
    """Make a Mask2Former that is confident enough to report segments."""
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
    """Make a ViLT."""
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
    """Make a captioner: a ViT encoder with a GPT-2 decoder."""
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
    """Make a LLaVA."""
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
