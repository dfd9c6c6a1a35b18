"""Which models the Hub has: one row each.

To add one: write a maker in `families` (or `awkward`) and add a row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HOSTILE = (  # what a field that goes into a Dockerfile, Python, YAML, HTML or a log may hold
    "line\nRUN id",
    "carriage\r\nreturn",
    "quotes \" '",
    "triple \"\"\" '''",
    "{{7*7}}",
    "${jndi:ldap://example.invalid/a}",
    "`id` $(id)",
    "separator\u2028next",
    "turned\u202eround",
    "back\\slash\\",
    "%s {0} #{7*7}",
    "<img src=x onerror=alert(1)>",
    "--flag",
    "../../outside",
)


@dataclass(frozen=True)
class Model:
    """One repository.

    `maker` names a function as `module:function` and is looked up only where models are made, so
    that the server starts without torch. `branches` maps a branch to its maker's options; each
    branch has its own weights. `card` has the card's metadata over the usual; None leaves a field
    out. `about` is the card's text.
    """

    id: str
    maker: str
    task: str | None
    library: str | None = "transformers"
    card: Mapping[str, Any] = field(default_factory=dict)
    branches: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"main": {}})
    about: str = "A tiny model with random weights."
    former_ids: tuple[str, ...] = ()
    gated: Literal["auto", "manual", False] = False
    private: bool = False
    disabled: bool = False


BERT, LLAMA = "families:bert_classifier", "families:llama_generator"

MODELS = (
    # Good ones.
    Model(
        "lilypad/tiny-text-classification",
        "families:bert_classifier",
        "text-classification",
        branches={"main": {}, "v1": {}},
        former_ids=("frog/tiny-text-classification", "tiny-text-classification"),
    ),
    Model("lilypad/tiny-text-generation", "families:llama_generator", "text-generation"),
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
    # As the library itself tags what it saves.
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
    Model("lilypad/tiny-fill-mask", "families:bert_mask_filler", "fill-mask"),
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
        "lilypad/tiny-automatic-speech-recognition", "media:speller", "automatic-speech-recognition"
    ),
    Model("lilypad/tiny-audio-classification", "media:sound_classifier", "audio-classification"),
    Model("lilypad/tiny-text-to-speech", "media:speaker", "text-to-speech"),
    Model("lilypad/tiny-text-to-audio", "media:speaker", "text-to-audio"),
    Model("lilypad/tiny-music", "media:composer", "text-to-audio"),
    Model("lilypad/tiny-summarization", "media:rewriter", "summarization"),
    Model("lilypad/tiny-translation", "media:rewriter", "translation"),
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
    Model("lilypad/tiny-audio-text-to-text", "media:listener", "audio-text-to-text"),
    Model("lilypad/tiny-any-to-any", "media:listener", "any-to-any"),
    # Good ones whose modules read pictures with torchvision.
    Model("lilypad/tiny-video-text-to-text", "seeing:qwen_vl", "video-text-to-text"),
    Model("lilypad/tiny-qwen-vl", "seeing:qwen_vl", "image-text-to-text"),
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
    # Good ones of shapes.
    Model("lilypad/tiny-text-to-3d", "pipelines:shap_e", "text-to-3d", library="diffusers"),
    Model(
        "lilypad/tiny-image-to-3d",
        "pipelines:shap_e",
        "image-to-3d",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    # Good ones of more of diffusers' pipelines than one per task.
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
    Model("lilypad/tiny-ltx", "painters:ltx", "text-to-video", library="diffusers"),
    Model(
        "lilypad/tiny-ltx-image",
        "painters:ltx",
        "image-to-video",
        library="diffusers",
        branches={"main": {"kind": "image"}},
    ),
    # Good ones with just the files that real repositories have.
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
    # Good ones behind a door.
    Model("lilypad/tiny-gated", "families:bert_classifier", "text-classification", gated="manual"),
    Model("lilypad/tiny-private", "families:bert_classifier", "text-classification", private=True),
    Model(
        "lilypad/tiny-disabled", "families:bert_classifier", "text-classification", disabled=True
    ),
    # Unsafe ones.
    Model("lilypad/tiny-pickle", "awkward:pickle_only", "text-classification"),
    Model(
        "lilypad/tiny-malicious-pickle",
        "awkward:pickle_only",
        "text-classification",
        branches={"main": {"malicious": True}},
    ),
    Model("lilypad/tiny-remote-code", "awkward:remote_code", "text-generation"),
    Model("lilypad/tiny-internal-attention", "awkward:internal_attention", "text-classification"),
    # Ones that lack what they cannot do without: a branch for each thing.
    Model(
        "lilypad/unwhole-classifier",
        "awkward:altered",
        "text-classification",
        branches={
            "no-vocabulary": {"maker": BERT, "without": ["tokenizer.json"]},
            "no-tokenizer": {"maker": BERT, "without": ["tokenizer*"]},
            "headless": {"maker": BERT, "weights": "headless"},
            "japanese": {
                "maker": BERT,
                "edits": {
                    "tokenizer_config.json": {
                        "tokenizer_class": "BertJapaneseTokenizer",
                        "word_tokenizer_type": "mecab",
                    },
                    "vocab.txt": {},
                },
            },
        },
    ),
    Model(
        "lilypad/unwhole-generator",
        "awkward:altered",
        "text-generation",
        branches={
            "gptq": {"maker": LLAMA, "weights": "packed"},
            "gptq-config": {"maker": LLAMA, "edits": {"quantize_config.json": {"bits": 4}}},
            "mlx": {"maker": LLAMA, "edits": {"config.json": {"quantization": {"bits": 4}}}},
            "float8": {"maker": LLAMA, "weights": "eighth"},
            "no-index": {"maker": "lifelike:llama", "without": ["*.index.json"]},
            "shard-missing": {"maker": "lifelike:llama", "without": ["*1-of-000002*"]},
            "tekken": {
                "maker": LLAMA,
                "without": ["tokenizer*"],
                "edits": {"tekken.json": {"vocab": []}},
            },
        },
    ),
    Model(
        "lilypad/unwhole-speaker",
        "awkward:altered",
        "text-to-speech",
        branches={
            "main": {
                "maker": "media:speaker",
                "edits": {"tokenizer_config.json": {"phonemize": True}},
            }
        },
    ),
    Model(
        "lilypad/unwhole-pictures",
        "awkward:altered",
        "image-classification",
        branches={
            "main": {"maker": "families:vit_classifier", "without": ["preprocessor_config.json"]}
        },
    ),
    Model(
        "lilypad/unwhole-painter",
        "awkward:altered",
        "text-to-image",
        library="diffusers",
        branches={
            "half": {
                "maker": "lifelike:stable_diffusion",
                "without": ["unet/diffusion_pytorch_model.safetensors"],
            },
            "no-vocabulary": {
                "maker": "lifelike:stable_diffusion",
                "without": ["tokenizer/vocab.json"],
            },
        },
    ),
    # Ones that leave something out, or that no pipeline of transformers runs.
    Model(
        "lilypad/tiny-no-licence",
        "families:bert_classifier",
        "text-classification",
        card={"license": None},
    ),
    Model("lilypad/tiny-no-task", "families:bert_classifier", None),
    Model("lilypad/tiny-card-only", "awkward:card_only", None, library=None),
    Model(
        "lilypad/tiny-reinforcement-learning",
        "awkward:policy",
        "reinforcement-learning",
        library="stable-baselines3",
    ),
    Model("lilypad/tiny-unknown-task", "families:bert_encoder", "telepathy"),
    Model("lilypad/tiny-gguf", "awkward:gguf_only", "text-generation", library=None),
    # Ones that lie about their size.
    Model(
        "lilypad/tiny-lying-header",
        "awkward:lying_header",
        "text-classification",
        branches={
            "main": {"lie": "huge"},
            "past-the-end": {"lie": "past-the-end"},
            "not-json": {"lie": "not-json"},
            "absurd": {"lie": "absurd"},
        },
    ),
    Model(
        "lilypad/too-big",  # 400 GB, and as many files as make the tree two pages long
        "awkward:sharded",
        "text-generation",
        branches={
            "main": {"shards": 80, "shape": (50_000, 50_000)},
            "many-shards": {"shards": 1_500, "shape": (8, 8)},
        },
    ),
    # Hostile ones: each in a single place, so that a refusal of one does not hide the next.
    Model(
        "lilypad/tiny-hostile-task",
        "families:bert_classifier",
        'text-classification"\nRUN id #{{7*7}}',
    ),
    Model(
        "lilypad/tiny-hostile-card",
        "families:bert_classifier",
        "text-classification",
        card={
            "license": " ".join(HOSTILE),
            "license_name": HOSTILE[0],
            "license_link": "javascript:alert(1)",
            "tags": list(HOSTILE),
            "language": [HOSTILE[0]],
            "base_model": HOSTILE[4],
        },
        about="<img src=x onerror=alert(1)>\n\n[click](javascript:alert(1))\n\n{{7*7}}",
    ),
    Model(
        "lilypad/tiny-hostile-names",
        "awkward:hostile_names",
        "text-classification",
        branches={"main": {"labels": HOSTILE, "names": HOSTILE}},
    ),
    Model(
        "lilypad/tiny-hostile-config",
        "awkward:hostile_config",
        "text-classification",
        branches={"main": {"architectures": [HOSTILE[0]], "model_type": HOSTILE[4]}},
    ),
)
