"""Makers of small working models whose modules read images with torchvision.

The makers' own process lacks it, so what prepares the inputs is written out here.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from transformers import (
    ColQwen2Config,
    ColQwen2ForRetrieval,
    GenerationConfig,
    GPT2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SamConfig,
    SamModel,
)

from hub import vision
from hub.families import CONTEXT, TINY, byte_pair_tokenizer, write_json

ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
HALF = [0.5, 0.5, 0.5]
CHAT = (
    "{{% for message in messages %}}{{{{ message['role'] }}}}: "
    "{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}assistant: {{% endif %}}"
)
QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_PICTURES = ["<|image_pad|>", "<|video_pad|>"]


def qwen_vl(folder: Path) -> None:
    """Make a Qwen2-VL, which reads pictures and videos."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT.format(
        image="<|vision_start|><|image_pad|><|vision_end|>",
        video="<|vision_start|><|video_pad|><|vision_end|>",
    )
    tokenizer.save_pretrained(folder)
    qwen_readers(folder)
    write_json(folder / "processor_config.json", {"processor_class": "Qwen2VLProcessor"})
    model = Qwen2VLForConditionalGeneration(qwen_config(tokenizer))
    model.generation_config = GenerationConfig(**ENDS)
    model.save_pretrained(folder)


def page_finder(folder: Path) -> None:
    """Make a ColQwen2, which embeds pages and questions as several vectors each."""
    tokenizer = qwen_tokenizer()
    tokenizer.save_pretrained(folder)
    qwen_readers(folder)
    write_json(folder / "processor_config.json", {"processor_class": "ColQwen2Processor"})
    config = ColQwen2Config(vlm_config=qwen_config(tokenizer).to_dict(), embedding_dim=16)
    ColQwen2ForRetrieval(config).save_pretrained(folder)


def qwen_tokenizer() -> GPT2Tokenizer:
    tokenizer = byte_pair_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*QWEN_MARKS, *QWEN_PICTURES]})
    tokenizer.model_max_length = 8 * CONTEXT
    return tokenizer


def qwen_readers(folder: Path) -> None:
    shared: dict[str, Any] = {
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 8 * 8, "longest_edge": 32 * 32},
        "image_mean": HALF,
        "image_std": HALF,
    }
    write_json(
        folder / "preprocessor_config.json",
        {**shared, "image_processor_type": "Qwen2VLImageProcessor"},
    )
    write_json(
        folder / "video_preprocessor_config.json",
        {
            **shared,
            "size": {"shortest_edge": 8 * 8, "longest_edge": 16 * 16},
            "video_processor_type": "Qwen2VLVideoProcessor",
        },
    )


def qwen_config(tokenizer: GPT2Tokenizer) -> Qwen2VLConfig:
    number = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
        text_config={
            **TINY,
            **ENDS,
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
            "max_position_embeddings": 8 * CONTEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 3, 3],
            },
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )


def mask_maker(folder: Path) -> None:
    """Make a SAM."""
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SamImageProcessor",
            "size": {"longest_edge": 64},
            "pad_size": {"height": 64, "width": 64},
            "mask_size": {"longest_edge": 16},
            "mask_pad_size": {"height": 16, "width": 16},
            "image_mean": HALF,
            "image_std": HALF,
        },
    )
    write_json(folder / "processor_config.json", {"processor_class": "SamProcessor"})
    config = SamConfig(
        vision_config={
            **TINY,
            "image_size": 64,
            "patch_size": 16,
            "output_channels": 16,
            "mlp_dim": 64,
            "num_pos_feats": 8,
            "global_attn_indexes": [1],
            "window_size": 2,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 16,
            "mask_input_channels": 4,
            "image_embedding_size": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    model = SamModel(config)
    # Confident about every mask, as an untrained model is not.
    model.mask_decoder.iou_prediction_head.proj_out.bias.data.fill_(1.0)
    model.save_pretrained(folder)


TIMM = """
import sys
import timm, torch
from timm.models import save_for_hf
from transformers import DetrConfig, DetrForObjectDetection

torch.manual_seed(0)
model = timm.create_model("test_vit", num_classes=3)
model.pretrained_cfg |= {"label_names": ["frog", "lily pad", "pond"], "num_classes": 3}
save_for_hf(model, sys.argv[1] + "/classifier", safe_serialization=True)
config = DetrConfig(
    backbone="test_resnet", d_model=32, num_queries=5, encoder_layers=1, decoder_layers=1,
    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
    num_labels=2,
)
DetrForObjectDetection(config).save_pretrained(sys.argv[1] + "/detector")
"""


def timm_classifier(folder: Path) -> None:
    for name, content in of_timm()["classifier"].items():
        (folder / name).write_bytes(content)


def detector(folder: Path) -> None:
    """Make a DETR with a timm backbone, in the layout of the first published DETRs."""
    for name, content in of_timm()["detector"].items():
        (folder / name).write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    del config["backbone_config"]
    own = {"backbone": "test_resnet", "use_timm_backbone": True}
    write_json(folder / "config.json", {**config, **own})
    size = {"shortest_edge": 64, "longest_edge": 96}
    prepares = {"image_processor_type": "DetrImageProcessor", "size": size}
    write_json(folder / "preprocessor_config.json", prepares)


@cache
def of_timm() -> dict[str, dict[str, bytes]]:
    """Make the models that need timm in a process that has it; return their files."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", TIMM, folder],
            env={**os.environ, **vision.environment()},
            check=True,
        )
        return {
            file.name: {path.name: path.read_bytes() for path in file.iterdir()}
            for file in Path(folder).iterdir()
        }
