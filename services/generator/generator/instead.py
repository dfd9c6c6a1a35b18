"""Refusals of a repository without loadable weights, by the kind of files it has instead."""

from models.origins import SPEAKS, another

ORIGINAL = "the model that it was converted from, with safetensors weights"
RUN_IT = "run it with its own program, or use a model of transformers for the same task"
# Formats of other programs, and the alternative to each.
FORMATS = {
    "openvino": ("OpenVINO", ORIGINAL),
    "keras": ("TensorFlow or Keras", ORIGINAL),
    "flax": ("Flax", ORIGINAL),
    "coreml": ("Core ML", ORIGINAL),
    "lite": ("LiteRT (TensorFlow Lite)", ORIGINAL),
    "paddle": ("PaddlePaddle", ORIGINAL),
    "tensorrt": ("TensorRT", ORIGINAL),
    "executorch": ("ExecuTorch", ORIGINAL),
    "rknn": ("RKNN", ORIGINAL),
    "llamafile": ("llamafile", f"{ORIGINAL}, or as GGUF"),
    "ggml": ("GGML (the format before GGUF)", f"{ORIGINAL}, or as GGUF"),
    "sklearn": ("scikit-learn", RUN_IT),
    "rust": ("rust-bert", ORIGINAL),
    "numpy": ("NumPy", ORIGINAL),
}
# Message, reason and alternative. The first kind found is named.
INSTEAD = {
    "empty": ("the repository is empty", "no-weights", "the model itself"),
    "pickled-adapter": (
        "the model is an adapter (LoRA) with pickled weights only",
        "adapter",
        "a copy with adapter_model.safetensors, as PEFT saves it today, or the two merged into one",
    ),
    "adapter": (
        "the model is an adapter (LoRA) to another model",
        "adapter",
        "the two merged into one, and pushed as safetensors",
    ),
    "nemo": (
        "the model is for NVIDIA NeMo, which modules do not install",
        "library",
        "a copy converted to transformers",
    ),
    "ctranslate2": (
        "the model is for CTranslate2, which modules do not install",
        "library",
        ORIGINAL,
    ),
    "spacy": (
        "the model is a spaCy pipeline, which modules do not install",
        "library",
        "a model of transformers for the same task",
    ),
    "kokoro": (
        "the model is for Kokoro's own library (kokoro), which modules do not install",
        "library",
        another(SPEAKS),
    ),
    "pickle": (
        "the model has pickled weights only, and loading them can run arbitrary code",
        "pickle-only",
        "a revision with safetensors weights, or with pytorch_model.bin, which is converted",
    ),
    **{
        kind: (f"the model has {title} weights only", "library", help)
        for kind, (title, help) in FORMATS.items()
    },
    "onnx": (
        "the model has ONNX weights only, without model.onnx and a config.json beside it",
        "library",
        f"{ORIGINAL}; or, for vectors and labels of texts, options.file with the ONNX file to run",
    ),
    "checkpoint": (
        "the model is a diffusion checkpoint in one file, as ComfyUI loads it",
        "no-weights",
        "the same model in the folders of diffusers, with model_index.json",
    ),
    "consolidated": (
        "the model's weights are in the layout of its author's own program (consolidated)",
        "no-weights",
        "the same model in the layout of transformers: model.safetensors and config.json",
    ),
    "shards": (
        "the model's weights are in several files, without the index that lists them",
        "incomplete",
        "a revision with model.safetensors.index.json",
    ),
    "safetensors": (
        "the model's weights are laid out for another program, or are there as a variant only",
        "no-weights",
        "a copy that its library saved: model.safetensors, or model_index.json and its folders",
    ),
}
