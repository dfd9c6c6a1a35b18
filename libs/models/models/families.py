"""Families of inference code, and the stacks of packages that they run on.

A family is one file of the generator's `templates/inference` with `load` and `answer`; what that
file imports comes with it into a module's script.
"""

from dataclasses import dataclass

from models.tasks import Task

# Packages that every module's script needs, also to fetch the weights.
SCRIPT = ("huggingface_hub", "PyYAML")
# What all other libraries than llama.cpp compute with.
ALWAYS = ("huggingface_hub", "numpy", "PyYAML", "safetensors", "torch")
PLAIN = (*ALWAYS, "transformers")
# The last two read SentencePiece's own file, the only tokenizer of many models.
TEXT = (*PLAIN, "protobuf", "sentencepiece")
SIGHT = (*PLAIN, "pillow")
AUDIO = (*TEXT, "scipy", "soundfile")
# Some image processors are written for torchvision first. The rest of transformers behaves as
# tested only without it.
VISION = (*SIGHT, "torchvision")

# SmolVLM writes the number of a video's frames as a word.
MULTIMODAL = (*AUDIO, "num2words", "pillow", "timm", "torchvision")
# For weights that are packed into fewer bits (`packing`).
PACKING = ("accelerate", "bitsandbytes", "compressed-tensors")

# Packages by stack. `make pins` resolves each with its dependencies to exact versions, in the
# generator's `templates/requirements`.
STACKS: dict[str, tuple[str, ...]] = {
    "text": TEXT,
    # Some tokenizers of translation and text generation models split words as Moses does.
    "words": (*TEXT, "sacremoses"),
    "words-packed": (*TEXT, "sacremoses", *PACKING),
    "words-adapter": (*TEXT, "sacremoses", "accelerate", "peft"),
    "images": (*TEXT, "pillow"),
    # For models that need torchvision, or have a backbone of timm.
    "images-vision": (*TEXT, *VISION, "timm"),
    "maps": (*SIGHT, "scipy"),
    "maps-vision": (*VISION, "scipy", "timm"),
    "masks": VISION,
    "pixels": SIGHT,
    "pages": (*TEXT, "pillow", "torchvision"),
    "audio": AUDIO,
    "multimodal": MULTIMODAL,
    "multimodal-packed": (*MULTIMODAL, *PACKING),
    "tables": (*TEXT, "pandas"),
    "series": PLAIN,
    "sentences": (*TEXT, "sentence-transformers"),
    "diffusion": (*TEXT, "pillow", "accelerate", "diffusers", "ftfy"),
    "timm": (*ALWAYS, "pillow", "timm", "torchvision"),
    # llama.cpp in one wheel: the modules need no torch.
    "llama": (*SCRIPT, "xllamacpp"),
    # For ONNX files, which take the place of a model's weights.
    "onnx": (*TEXT, "onnxruntime", "sentence-transformers"),
}
ONNX = "onnx"


@dataclass(frozen=True)
class Family:
    """One file of inference code, for several tasks.

    `batches`: several inputs go through the model at once. `named`: module.yaml names the class
    that loads the model, and the one that prepares its inputs; a pipeline finds them itself.
    """

    name: str
    stack: str
    batches: bool = False
    named: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family("text_classification", "images", batches=True),
        Family("token_classification", "images", batches=True),
        Family("feature_extraction", "images", batches=True),
        Family("fill_mask", "images", batches=True),
        Family("zero_shot_text", "images", batches=True),
        Family("zero_shot_image", "images", batches=True),
        Family("zero_shot_detection", "images"),
        Family("vision", "images", batches=True),
        Family("text_generation", "words", batches=True),
        Family("adapted_generation", "words-adapter", batches=True, named=True),
        Family("rewriting", "words", batches=True, named=True),
        Family("translation", "words", batches=True, named=True),
        Family("question_answering", "text", named=True),
        Family("multiple_choice", "text", named=True),
        Family("visual_qa", "images", named=True),
        Family("document_qa", "images"),
        Family("document_retrieval", "pages", named=True),
        Family("table_qa", "tables"),
        Family("multimodal", "multimodal", named=True),
        Family("speech", "audio"),
        Family("audio_classification", "audio"),
        Family("text_to_audio", "text"),
        Family("segmentation", "maps"),
        Family("depth", "maps"),
        Family("mask_generation", "masks"),
        Family("video_classification", "pixels", named=True),
        Family("super_resolution", "pixels", named=True),
        Family("keypoint_detection", "pixels", named=True),
        Family("forecasting", "series", named=True),
        Family("embedding", "sentences", batches=True, named=True),
        Family("sentence_similarity", "sentences", batches=True, named=True),
        Family("reranking", "sentences", batches=True),
        Family("sparse_retrieval", "sentences", batches=True, named=True),
        Family("setfit", "sentences", batches=True, named=True),
        *(
            Family(f"{takes}_to_{made}", "diffusion")
            for takes, made in (
                *(("text", "image"), ("image", "image"), ("number", "image")),
                *(("text", "video"), ("image", "video"), ("video", "video")),
                *(("text", "shape"), ("image", "shape")),
            )
        ),
        Family("timm_classification", "timm", batches=True),
        Family("timm_embedding", "timm", batches=True),
        Family("gguf_generation", "llama"),
        Family("gguf_embedding", "llama"),
        Family("gguf_similarity", "llama"),
        Family("onnx_embedding", ONNX, batches=True, named=True),
        Family("onnx_similarity", ONNX, batches=True, named=True),
        Family("onnx_ranking", ONNX, batches=True),
        Family("onnx_features", ONNX, batches=True),
        Family("onnx_classification", ONNX, batches=True),
        Family("onnx_tokens", ONNX, batches=True),
        Family("gguf_ranking", "llama"),
    )
}

# Families whose models onnxruntime runs too, and the family of their ONNX files.
BY_ONNXRUNTIME = {
    "embedding": "onnx_embedding",
    "sentence_similarity": "onnx_similarity",
    "reranking": "onnx_ranking",
    "feature_extraction": "onnx_features",
    "text_classification": "onnx_classification",
    "token_classification": "onnx_tokens",
}


def with_vision(stack: str) -> str:
    """Return a stack's variant with torchvision and timm; the stack itself if it has none."""
    return f"{stack}-vision" if f"{stack}-vision" in STACKS else stack


def with_packing(stack: str) -> str:
    """Return a stack's variant that loads packed weights; the stack itself if it has none."""
    return f"{stack}-packed" if f"{stack}-packed" in STACKS else stack


def stack_of(task: Task) -> str:
    """Return the stack that a row's modules install."""
    return task.stack or FAMILIES[task.family].stack
