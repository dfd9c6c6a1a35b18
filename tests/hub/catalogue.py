"""The Hub's models: one row each.

To add one: write a maker in `families` (or `awkward`) and add a row here, or in `misfits`.
"""

from hub.misfits import MISFITS
from hub.model import Model

MODELS = (
    # Good ones.
    Model(
        "lilypad/tiny-text-classification",
        "families:bert_classifier",
        "text-classification",
        branches={"main": {}, "v1": {}},
        former_ids=(
            "frog/tiny-text-classification",
            "tiny-text-classification",
            # The name in the documentation's examples.
            "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        ),
    ),
    Model(
        "lilypad/tiny-text-generation",
        "families:llama_generator",
        "text-generation",
        former_ids=("openai-community/gpt2",),
    ),
    Model(
        "lilypad/packed-bitsandbytes",
        "packed:bitsandbytes",
        "text-generation",
        branches={
            "main": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            "8bit": {"load_in_8bit": True},
        },
    ),
    Model(
        "lilypad/tiny-adapter",
        "adapters:lora",
        "text-generation",
        library="peft",
        card={"base_model": "lilypad/tiny-text-generation"},
        branches={
            "main": {},
            "elsewhere": {"base": "lilypad/no-such-model"},
            "packed": {"base": "lilypad/packed-fp8"},
            "twice": {"base": "lilypad/tiny-adapter"},
        },
    ),
    Model("lilypad/tiny-gguf", "weightless:gguf_only", "text-generation", library=None),
    Model(
        "lilypad/tiny-gguf-similarity",
        "gguf_encoders:embedder",
        "sentence-similarity",
        library=None,
    ),
    Model(
        "lilypad/tiny-gguf-features",
        "gguf_encoders:embedder",
        "feature-extraction",
        library=None,
        branches={"main": {"packings": ("Q8_0",)}},
    ),
    Model(
        "lilypad/tiny-onnx-similarity",
        "graphs:make",
        "sentence-similarity",
        library="sentence-transformers",
        branches={
            "main": {"kind": "similarity"},
            "original": {"kind": "similarity", "original": True},
            "quantized": {"kind": "similarity", "at": "onnx/model_quantized.onnx"},
        },
    ),
    Model(
        "lilypad/tiny-onnx-features",
        "graphs:make",
        "feature-extraction",
        library="transformers.js",
        branches={
            "main": {"kind": "features", "beside": True},
            "original": {"kind": "features", "original": True},
        },
    ),
    Model(
        "lilypad/tiny-onnx-classes",
        "graphs:make",
        "text-classification",
        library="transformers.js",
        branches={
            "main": {"kind": "classes", "at": "model.onnx"},
            "original": {"kind": "classes", "original": True},
        },
    ),
    Model(
        "lilypad/tiny-onnx-tokens",
        "graphs:make",
        "token-classification",
        branches={
            "main": {"kind": "tokens"},
            "original": {"kind": "tokens", "original": True},
        },
    ),
    Model(
        "lilypad/tiny-onnx-ranking",
        "graphs:make",
        "text-ranking",
        library="sentence-transformers",
        branches={
            "main": {"kind": "ranking"},
            "original": {"kind": "ranking", "original": True},
        },
    ),
    Model(
        "lilypad/tiny-onnx-masks", "graphs:make", "fill-mask", branches={"main": {"kind": "masks"}}
    ),
    Model("lilypad/tiny-gguf-ranking", "gguf_rankers:ranker", "text-ranking", library=None),
    Model("lilypad/packed-fp8", "packed:block_fp8", "text-generation"),
    Model(
        "lilypad/packed-integers",
        "packed:integers",
        "text-generation",
        branches={
            "main": {"kind": "gptq", "bits": 4, "desc_act": False},
            "gptq-8bit": {"kind": "gptq", "bits": 8, "desc_act": False},
            "awq": {"kind": "awq", "bits": 4, "version": "gemm", "zero_point": True},
        },
    ),
    Model("lilypad/packed-mxfp4", "packed:mxfp4", "text-generation"),
    Model(
        "lilypad/packed-compressed",
        "packed:compressed",
        "text-generation",
        branches={
            "main": {"format": "float-quantized", "bits": 8},
            "int8": {"format": "int-quantized", "bits": 8},
            "int4": {"format": "pack-quantized", "bits": 4},
        },
    ),
    Model("lilypad/tiny-feature-extraction", "families:bert_encoder", "feature-extraction"),
    Model(
        "lilypad/tiny-sentence-similarity",
        "families:sentence_transformer",
        "sentence-similarity",
        library="sentence-transformers",
    ),
    Model(
        "lilypad/all-minilm-l6-v2",
        "pipelines:all_minilm",
        "sentence-similarity",
        library="sentence-transformers",
        about="The sentence embedding that many programs use; a real model.",
    ),
    Model(
        "lilypad/tiny-sentence-features",
        "families:sentence_transformer",
        "feature-extraction",
        library="sentence-transformers",
    ),
    Model(
        "lilypad/tiny-text-ranking",
        "pipelines:cross_encoder",
        "text-ranking",
        library="sentence-transformers",
    ),
    Model(
        "lilypad/tiny-text-retrieval",
        "pipelines:sparse_encoder",
        "text-retrieval",
        library="sentence-transformers",
    ),
    Model(
        "lilypad/sentences",
        "sentences:make",
        "feature-extraction",
        library="sentence-transformers",
        branches={
            "main": {"kind": "projected"},
            "residual": {"kind": "residual"},
            "cut": {"kind": "cut"},
            "convolved": {"kind": "convolved"},
            "static": {"kind": "static"},
            "routed": {"kind": "routed"},
            "parted": {"kind": "parted"},
            "sparse-routed": {"kind": "sparse-routed"},
            "sparse-coded": {"kind": "sparse-coded"},
            "by-words": {"kind": "by-words"},
        },
    ),
    Model(
        "lilypad/causal-ranker",
        "sentences:judging",
        "text-ranking",
        library="sentence-transformers",
    ),
    Model(
        "lilypad/tiny-setfit",
        "sentences:setfit",
        "text-classification",
        library="setfit",
        branches={"main": {}, "pair": {"kind": "pair"}, "one-vs-rest": {"kind": "one-vs-rest"}},
    ),
    # The tag that the library itself writes.
    Model(
        "lilypad/tiny-sparse-features",
        "pipelines:sparse_encoder",
        "feature-extraction",
        library="sentence-transformers",
    ),
    Model(
        "lilypad/tiny-unconditional-image-generation",
        "pipelines:ddpm",
        "unconditional-image-generation",
        library="diffusers",
    ),
    Model(
        "lilypad/tiny-text-to-image",
        "pipelines:stable_diffusion",
        "text-to-image",
        library="diffusers",
    ),
    Model(
        "lilypad/tiny-diffused-image-to-image",
        "pipelines:stable_diffusion",
        "image-to-image",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    Model(
        "lilypad/tiny-image-text-to-image",
        "pipelines:stable_diffusion",
        "image-text-to-image",
        library="diffusers",
        branches={"main": {"kind": "edit"}},
    ),
    Model(
        "lilypad/tiny-text-to-video",
        "pipelines:wan",
        "text-to-video",
        library="diffusers",
    ),
    Model(
        "lilypad/tiny-image-to-video",
        "pipelines:wan",
        "image-to-video",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    Model(
        "lilypad/tiny-image-text-to-video",
        "pipelines:wan",
        "image-text-to-video",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    Model(
        "lilypad/tiny-video-to-video",
        "pipelines:wan",
        "video-to-video",
        library="diffusers",
        branches={"main": {"kind": "video"}},
    ),
    Model("lilypad/tiny-image-classification", "families:vit_classifier", "image-classification"),
    Model("lilypad/tiny-token-classification", "families:bert_tagger", "token-classification"),
    Model(
        "lilypad/tiny-fill-mask",
        "families:bert_mask_filler",
        "fill-mask",
        former_ids=("distilbert/distilbert-base-uncased",),
    ),
    Model(
        "lilypad/tiny-zero-shot-classification",
        "families:bert_classifier",
        "zero-shot-classification",
        branches={"main": {"labels": ("contradiction", "neutral", "entailment")}},
    ),
    Model(
        "lilypad/tiny-image-feature-extraction", "families:vit_encoder", "image-feature-extraction"
    ),
    Model("lilypad/tiny-object-detection", "families:yolos_detector", "object-detection"),
    Model(
        "lilypad/tiny-automatic-speech-recognition",
        "sounds:speller",
        "automatic-speech-recognition",
    ),
    Model("lilypad/tiny-audio-classification", "sounds:sound_classifier", "audio-classification"),
    Model("lilypad/tiny-text-to-speech", "sounds:speaker", "text-to-speech"),
    Model("lilypad/tiny-text-to-audio", "sounds:speaker", "text-to-audio"),
    Model("lilypad/tiny-music", "sounds:composer", "text-to-audio"),
    Model("lilypad/tiny-summarization", "media:rewriter", "summarization"),
    Model("lilypad/tiny-translation", "media:rewriter", "translation"),
    Model("lilypad/tiny-text2text-generation", "media:rewriter", "text2text-generation"),
    Model("lilypad/tiny-sequence-ranking", "pipelines:cross_encoder", "text-ranking"),
    Model("lilypad/tiny-question-answering", "media:reader", "question-answering"),
    Model("lilypad/tiny-multiple-choice", "media:chooser", "multiple-choice"),
    Model(
        "lilypad/tiny-zero-shot-image-classification",
        "media:clip",
        "zero-shot-image-classification",
    ),
    Model("lilypad/tiny-zero-shot-object-detection", "media:finder", "zero-shot-object-detection"),
    Model("lilypad/tiny-image-segmentation", "media:segmenter", "image-segmentation"),
    Model("lilypad/tiny-panoptic-segmentation", "media:panoptic_segmenter", "image-segmentation"),
    Model("lilypad/tiny-depth-estimation", "media:depth_estimator", "depth-estimation"),
    Model("lilypad/tiny-super-resolution", "media:upscaler", "image-to-image"),
    Model("lilypad/tiny-keypoint-detection", "media:keypoint_finder", "keypoint-detection"),
    Model("lilypad/tiny-video-classification", "media:video_classifier", "video-classification"),
    Model(
        "lilypad/tiny-visual-question-answering", "media:picture_asker", "visual-question-answering"
    ),
    Model(
        "lilypad/tiny-document-question-answering",
        "media:page_reader",
        "document-question-answering",
    ),
    Model(
        "lilypad/tiny-table-question-answering", "media:table_reader", "table-question-answering"
    ),
    Model("lilypad/tiny-time-series-forecasting", "media:forecaster", "time-series-forecasting"),
    Model("lilypad/tiny-image-to-text", "media:captioner", "image-to-text"),
    Model("lilypad/tiny-image-text-to-text", "media:seer", "image-text-to-text"),
    Model("lilypad/tiny-audio-text-to-text", "sounds:listener", "audio-text-to-text"),
    Model("lilypad/tiny-any-to-any", "sounds:listener", "any-to-any"),
    # Good ones whose modules read images with torchvision.
    Model("lilypad/tiny-video-text-to-text", "seeing:qwen_vl", "video-text-to-text"),
    Model("lilypad/tiny-qwen-vl", "seeing:qwen_vl", "image-text-to-text"),
    Model("lilypad/tiny-packed-vl", "packed:block_fp8_vl", "image-text-to-text"),
    Model("lilypad/tiny-mask-generation", "seeing:mask_maker", "mask-generation"),
    Model(
        "lilypad/tiny-visual-document-retrieval", "seeing:page_finder", "visual-document-retrieval"
    ),
    Model(
        "lilypad/tiny-timm-classification",
        "seeing:timm_classifier",
        "image-classification",
        library="timm",
    ),
    Model(
        "lilypad/tiny-timm-features",
        "seeing:timm_classifier",
        "image-feature-extraction",
        library="timm",
    ),
    Model("lilypad/lifelike-detr", "seeing:detector", "object-detection"),
    # Good ones for 3D shapes.
    Model("lilypad/tiny-text-to-3d", "pipelines:shap_e", "text-to-3d", library="diffusers"),
    Model(
        "lilypad/tiny-image-to-3d",
        "pipelines:shap_e",
        "image-to-3d",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    # Good ones for further pipelines of diffusers.
    Model(
        "lilypad/tiny-ddim", "painters:ddim", "unconditional-image-generation", library="diffusers"
    ),
    Model(
        "lilypad/tiny-sdxl", "painters:stable_diffusion_xl", "text-to-image", library="diffusers"
    ),
    Model(
        "lilypad/tiny-sdxl-image",
        "painters:stable_diffusion_xl",
        "image-to-image",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    Model("lilypad/tiny-sd3", "painters:stable_diffusion_3", "text-to-image", library="diffusers"),
    Model("lilypad/tiny-flux", "painters:flux", "text-to-image", library="diffusers"),
    Model("lilypad/tiny-z-image-turbo", "painters:z_image", "text-to-image", library="diffusers"),
    Model("lilypad/tiny-qwen-image", "painters:qwen_image", "text-to-image", library="diffusers"),
    Model("lilypad/tiny-ltx", "painters:ltx", "text-to-video", library="diffusers"),
    Model(
        "lilypad/tiny-ltx-image",
        "painters:ltx",
        "image-to-video",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    # Good ones with exactly the files that real repositories have.
    *(
        Model(f"lilypad/lifelike-{name.replace('_', '-')}", f"lifelike:{name}", task, library)
        for name, task, library in (
            ("deberta", "text-classification", "transformers"),
            ("xlm_roberta", "fill-mask", "transformers"),
            ("albert", "token-classification", "transformers"),
            ("llama", "text-generation", "transformers"),
            ("t5", "translation", "transformers"),
            ("marian", "translation", "transformers"),
            ("biogpt", "text-generation", "transformers"),
            ("whisper", "automatic-speech-recognition", "transformers"),
            ("sentence_bert", "sentence-similarity", "sentence-transformers"),
            ("stable_diffusion", "text-to-image", "diffusers"),
        )
    ),
    *MISFITS,
)
