"""The library and the task that a repository was made for.

Models of other libraries are recognised by name. A config that points at its author's code is
distinguished from one whose architecture transformers has itself. A class name says which task a
model can serve.
"""

from typing import Any

from models.tables import architectures
from models.tags import INFERRED
from models.tasks import LIBRARIES

# Architectures whose pretrained models tell true tokens from false ones, and fill no masks.
DISCRIMINATORS = frozenset(("electra",))
CONVERTED = "the model that it was converted from, with safetensors weights"
ANOTHER = "a model of transformers for the same task"
# A popular model of each task that gets a module, for refusals of other ones.
POPULAR = {
    "audio-classification": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "automatic-speech-recognition": "openai/whisper-small",
    "depth-estimation": "depth-anything/Depth-Anything-V2-Small-hf",
    "document-question-answering": "impira/layoutlm-document-qa",
    "feature-extraction": "intfloat/multilingual-e5-large",
    "fill-mask": "google-bert/bert-base-uncased",
    "image-classification": "google/vit-base-patch16-224",
    "image-feature-extraction": "facebook/dinov2-base",
    "image-text-to-text": "Qwen/Qwen3-VL-2B-Instruct",
    "image-to-text": "naver-clova-ix/donut-base",
    "mask-generation": "facebook/sam-vit-base",
    "object-detection": "facebook/detr-resnet-50",
    "sentence-similarity": "sentence-transformers/all-MiniLM-L6-v2",
    "summarization": "facebook/bart-large-cnn",
    "table-question-answering": "google/tapas-base-finetuned-wtq",
    "text-classification": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    "text-generation": "Qwen/Qwen2.5-1.5B-Instruct",
    "text-ranking": "cross-encoder/ms-marco-MiniLM-L6-v2",
    "text-to-image": "stabilityai/stable-diffusion-xl-base-1.0",
    "text-to-speech": "facebook/mms-tts-eng (not for commercial use)",
    "text-to-video": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "time-series-forecasting": "google/timesfm-2.5-200m-transformers",
    "token-classification": "dslim/bert-base-NER",
    "translation": "google-t5/t5-small",
    "zero-shot-classification": "facebook/bart-large-mnli",
    "zero-shot-image-classification": "openai/clip-vit-large-patch14",
}
# Libraries that modules do not install, by the Hub's names, and the alternative to each.
FOREIGN = {
    **dict.fromkeys(("ctranslate2", "mlx", "mlx-lm", "mlx-vlm", "onnx", "openvino"), CONVERTED),
    **dict.fromkeys(("coreml", "tflite", "tf-keras", "keras", "transformers.js"), CONVERTED),
    **dict.fromkeys(
        ("asteroid", "chatterbox", "chronos-forecasting", "espnet", "fairseq"), ANOTHER
    ),
    **dict.fromkeys(
        ("fastai", "fasttext", "flair", "gliner", "kokoro", "lerobot", "nemo"), ANOTHER
    ),
    **dict.fromkeys(("open_clip", "PaddleOCR", "sklearn", "spacy"), ANOTHER),
    # Its models tell who speaks when, whatever task their cards name.
    "pyannote-audio": "its library in a container written for it, or, for the words alone, "
    f"{POPULAR['automatic-speech-recognition']}",
    **dict.fromkeys(
        ("speechbrain", "stable-baselines3", "stanza", "timesfm", "ultralytics"), ANOTHER
    ),
}
# Architectures first published with custom code, which transformers now implements: it uses its
# own classes unless told to trust the repository's.
NATIVE = frozenset(
    ("afmoe", "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4")
) | {
    *("falcon", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm3", "jetmoe", "kimi_k25"),
    *("longcat_flash", "mimo_v2_flash", "minicpm3", "mpt", "nemotron_h", "nomic_bert", "phi"),
    *("phi3", "phimoe", "stablelm"),
}
# Alternatives to repositories whose code computes something else than any class of the library.
OWN_CODE_HELP = {
    "florence2": "the copy that florence-community converted for transformers, such as "
    "florence-community/Florence-2-base",
    "new": "a copy converted to the architecture gte of transformers, such as "
    "alibaba-nlp-community/gte-multilingual-base",
    "xlm-roberta": "a copy converted to an architecture of transformers' own",
}
SAVED = "a copy saved by the library itself, which names no code of its author"


# The tasks of whole pipelines, and of Kokoro's own library.
PAINTS, SPEAKS = "text-to-image", "text-to-speech"


def another(tag: str | None) -> str:
    """Name the alternative to a model of another library: a model for the same task."""
    return f"{ANOTHER}, such as {POPULAR[tag]}" if tag in POPULAR else ANOTHER


def instead_of(library: str | None, tag: str | None) -> str:
    """Name the alternative to a model of a library that modules do not install."""
    help = FOREIGN.get(library or "", ANOTHER)
    return another(tag) if help == ANOTHER else help


def own_code_help(kind: Any) -> str:
    """Name the alternative to a model that needs its author's code."""
    return OWN_CODE_HELP.get(kind, SAVED) if isinstance(kind, str) else SAVED


def tag_of_class(config: dict[str, Any], *, headless: bool = True) -> str | None:
    """Infer a model's tag from its class, as the Hub does; None if there is none.

    With `headless`, a bare encoder counts as a model for feature extraction.
    """
    kind, named = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or not isinstance(named, list):
        return None
    if (
        headless
        and kind in DISCRIMINATORS
        and any(str(name).endswith("ForPreTraining") for name in named)
    ):
        return "feature-extraction"
    for tag in INFERRED:
        endings = LIBRARIES["transformers"][tag].classes or (("Model",) if headless else ())
        if kind in architectures().get(tag, ()) and any(
            str(name).endswith(endings) for name in named
        ):
            return tag
    return None
