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
    **dict.fromkeys(("open_clip", "PaddleOCR", "pyannote-audio", "sklearn", "spacy"), ANOTHER),
    **dict.fromkeys(
        ("speechbrain", "stable-baselines3", "stanza", "timesfm", "ultralytics"), ANOTHER
    ),
}
# Architectures first published with custom code, which transformers now implements: it uses its
# own classes unless told to trust the repository's.
NATIVE = frozenset(
    ("deepseek_v2", "deepseek_v3", "exaone4", "falcon", "kimi_k25", "minicpm3", "mpt")
) | {"nemotron_h", "nomic_bert", "phi", "phi3", "phimoe", "stablelm"}
# Alternatives to repositories whose code computes something else than any class of the library.
OWN_CODE_HELP = {
    "florence2": "the copy that florence-community converted for transformers",
    "new": "a copy converted to the architecture gte of transformers",
    "xlm-roberta": "a copy converted to an architecture of transformers' own",
}
SAVED = "a copy saved by the library itself, which names no code of its author"


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
