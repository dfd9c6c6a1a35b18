"""Selection of the files that a module needs, and the kinds of a repository's files."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from common.errors import HubUnavailable, ModelRefused
from generator.description import Description, Sibling
from generator.layout import Layout
from generator.reasons import refuse
from generator.weights import Index
from models.tasks.sentences import HEAD, SETFIT, SETTINGS
from models.tokenizers import known as tokenizer_files

# Files that transformers reads from a model's folder and that hold no code.
LOADED = tokenizer_files() | {
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"),
}
# Files that sentence-transformers and diffusers read in addition.
LOADED_TOO = re.compile(
    r"modules\.json|config_sentence_transformers\.json"
    r"|sentence_(?:bert|roberta|distilbert|camembert|albert|xlnet|xlm-roberta)_config\.json"
    r"|router_config\.json|cnn_config\.json"
    r"|model_index\.json|scheduler_config\.json|config_setfit\.json"
)
# Unsharded weights, which the libraries prefer to the shards of an index.
WHOLE = ("model.safetensors", "diffusion_pytorch_model.safetensors")
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors")
NUMBERED = re.compile(r"(?:diffusion_pytorch_)?model-[0-9]{5,6}-of-[0-9]{5,6}\.safetensors")
# File names of adapters, as PEFT and diffusers write them.
ADAPTER = re.compile(
    r"adapter_config\.json|pytorch_lora_weights\.(?:safetensors|bin)"
    r"|.{0,120}lora.{0,120}\.(?:safetensors|bin|pt)",
    re.IGNORECASE,
)
# Parts of tensors' names in files that no library finds by theirs: adapters, as PEFT, diffusers,
# Kohya's scripts and LyCORIS write them, and two layouts for other programs.
TENSORS = {
    "adapter": re.compile(
        r"lora_(?:up|down|unet|te|transformer|[AB])(?![a-z])|\.lora\.|hada_w[12]_|lokr_w[12]"
    ),
    "checkpoint": re.compile(r"^(?:model\.)?diffusion_model\.|^double_blocks\."),
    "consolidated": re.compile(r"^layers\.\*\.(?:attention\.w[qkvo]|feed_forward\.w[123])\."),
}
ADAPTED = "adapter_model.safetensors"
# Written next to packed weights whose config does not mention the packing.
QUANTIZED = frozenset(
    ("quantize_config.json", "quant_config.json", "quantization_config.json", "quanto_qmap.json")
)
# The largest open models have about 200 shards; module.yaml lists each one.
MAX_SHARDS = 2000
# Weights that torch.save wrote, by the names that transformers gives them.
PICKLED = ("pytorch_model.bin",)
PICKLED_SHARD = re.compile(r"pytorch_model-[0-9]{5}-of-[0-9]{5}\.bin")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Files with such endings that are no pickles: of OpenVINO, of GGML's first format, of Core ML.
UNPICKLED = re.compile(r"(?:^|/)(?:openvino_|ggml-)[^/]*$|\.ml(?:package|modelc)/", re.IGNORECASE)
# Weights of other programs, by the endings of their files' names in lower case.
OTHER_FORMATS = {
    "gguf": (".gguf",),
    "nemo": (".nemo",),
    "openvino": ("openvino_model.xml", "openvino_model.bin"),
    "keras": (".keras", ".h5", "saved_model.pb", "keras_metadata.pb", ".ckpt.index"),
    "flax": (".msgpack",),
    "onnx": (".onnx",),
    "coreml": (".mlmodel", ".mlmodelc/coremldata.bin", ".mlpackage/manifest.json"),
    "lite": (".tflite", ".litertlm", ".task"),
    "paddle": (".pdparams", ".pdiparams"),
    "tensorrt": (".engine", ".plan"),
    "executorch": (".pte",),
    "rknn": (".rknn",),
    "llamafile": (".llamafile",),
    "sklearn": (".joblib", ".skops"),
    "rust": (".ot",),
    "numpy": (".npz", ".npy"),
}
GGML = re.compile(r"ggml-[^/]{0,120}\.bin", re.IGNORECASE)
# The weights of Kokoro's own library, which it names by their version.
KOKORO = re.compile(r"kokoro-v[0-9_.]{1,16}\.pth")
# The file that ColBERT's own library writes next to an encoder, whose head no other library loads.
COLBERT = "artifact.metadata"
# Files that spaCy and CTranslate2 write next to their weights.
SPACY = frozenset(("meta.json", "config.cfg"))
VOCABULARIES = frozenset(("vocabulary.json", "vocabulary.txt", "shared_vocabulary.json"))
DOCUMENTS = frozenset((".gitattributes", ".gitignore", "README.md", "LICENSE", "LICENSE.txt"))

Places = dict[str, Index]


@dataclass(frozen=True)
class File:
    """A file that the module needs, with the `sha256` of its content or git's `blob` id.

    Of pickled weights, `becomes` is the path of the file that they are converted to.
    """

    path: str
    size: int
    sha256: str | None
    blob: str | None
    becomes: str | None = None


def kinds_of(description: Description) -> frozenset[str]:
    """Return the kinds of files that a repository has, as keys of `INSTEAD`."""
    names = {sibling.rfilename for sibling in description.siblings}
    last = {name_of(name) for name in names}
    converted = "model.bin" in names and not VOCABULARIES.isdisjoint(names)
    pickles = {
        name
        for name in names
        if name.endswith(PICKLES)
        and not UNPICKLED.search(name)
        and not (converted and name_of(name) == "model.bin")
    }
    lowered = {name.lower() for name in names}
    kinds = {
        "empty": names <= DOCUMENTS,
        "adapter": description.is_adapter or any(map(ADAPTER.fullmatch, last)),
        "adapted": "adapter_config.json" in names,
        "pickled-adapter": "adapter_model.bin" in names and ADAPTED not in names,
        "colbert": COLBERT in names,
        "setfit": description.library_name == SETFIT or SETTINGS in names,
        "spacy": names >= SPACY,
        "kokoro": any(map(KOKORO.fullmatch, last)),
        "ctranslate2": converted,
        "pickle": bool(pickles),
        "quantized": not QUANTIZED.isdisjoint(names),
        "shards": any(map(NUMBERED.fullmatch, last)),
        "safetensors": any(map(is_weights, names)),
        "ggml": any(map(GGML.fullmatch, last)),
    } | {kind: any(name.endswith(ends) for name in lowered) for kind, ends in OTHER_FORMATS.items()}
    return frozenset(kind for kind, there in kinds.items() if there)


def at(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def needed(
    description: Description, laid_out: Layout, shards: Places, *, pickled: bool = False
) -> tuple[File, ...]:
    """Choose the files that the module needs.

    With `pickled`, a folder without other weights has those that torch.save wrote.
    """
    siblings = {sibling.rfilename: sibling for sibling in description.siblings}
    folders = dict.fromkeys(("", *laid_out.folders))
    chosen: list[str] = []
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        names = [
            path.removeprefix(prefix)
            for path in siblings
            if path.startswith(prefix) and "/" not in path.removeprefix(prefix)
        ]
        # The root of a pipeline may hold a second copy of all its weights in one file.
        kept = folder in laid_out.with_weights
        index = shards.get(folder)
        # Where both are there, it is that of safetensors which was read.
        of_pickles = has_stale_index(names) or not any(
            f"{file}.index.json" in names for file in WHOLE
        )
        weights = _weights(names, None if of_pickles else index, WHOLE, SHARD) if kept else []
        if pickled and kept and not weights and not laid_out.pipeline:
            weights = _weights(names, index if of_pickles else None, PICKLED, PICKLED_SHARD)
        if folder and not weights and any(name.endswith(PICKLES) for name in names):
            raise refuse(
                f"the model has pickled weights only in {folder}, and loading those can run "
                "anyone's code",
                "pickle-only",
                "a revision with safetensors weights",
            )
        if laid_out.pipeline and kept and not weights:
            raise refuse(
                f"the weights of the model's {folder} are missing, or exist only as a variant",
                "incomplete",
                f"a revision with {' or '.join(WHOLE)} there",
            )
        loaded = [name for name in names if name in LOADED]
        if laid_out.library or "config_sentence_transformers.json" in names:
            loaded += [name for name in names if LOADED_TOO.fullmatch(name)]
        chosen += [prefix + name for name in weights + loaded]
    if HEAD in siblings and is_setfit(description, laid_out):
        chosen.append(HEAD)
    return tuple(file_of(siblings[path]) for path in sorted(chosen))


def has_stale_index(names: Collection[str]) -> bool:
    """Return whether an index of safetensors would lie beside pickled weights alone.

    Such an index was left behind, and the libraries load the pickles.
    """
    pickles = any(name in names for file in PICKLED for name in (file, f"{file}.index.json"))
    return pickles and not any(map(is_weights, names))


def is_setfit(description: Description, laid_out: Layout) -> bool:
    """Return whether the repository is a sentence model that SetFit put a classifier on."""
    is_named = description.library_name == SETFIT
    is_named |= any(sibling.rfilename == SETTINGS for sibling in description.siblings)
    return is_named and laid_out.library == "sentence-transformers"


def _weights(
    names: list[str], index: Index | None, whole: tuple[str, ...], shard: re.Pattern[str]
) -> list[str]:
    for file in whole:
        if file in names:  # the libraries prefer it to shards
            return [file]
    if index is None:
        return []
    shards = sorted(index.shards)
    if len(shards) > MAX_SHARDS:
        raise ModelRefused(f"the weights are in more than {MAX_SHARDS} files", reason="weights")
    if not set(shards) <= set(names) or not all(map(shard.fullmatch, shards)):
        raise refuse(
            "some of the model's weight files are missing",
            "incomplete",
            "a revision that has all that its index names",
        )
    return [*shards, *(f"{file}.index.json" for file in whole if f"{file}.index.json" in names)]


def is_weights(path: str) -> bool:
    return path.endswith(".safetensors")


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def converted_name(path: str) -> str | None:
    """Return the path that pickled weights, or their index, are converted to; None for others."""
    if path == HEAD:
        return HEAD.replace(".pkl", ".safetensors")
    folder, slash, name = path.rpartition("/")
    plain = name.removesuffix(".index.json")
    if plain not in PICKLED and not PICKLED_SHARD.fullmatch(name):
        return None
    new = plain.replace("pytorch_model", "model", 1).removesuffix(".bin") + ".safetensors"
    return folder + slash + new + name.removeprefix(plain)


def file_of(sibling: Sibling) -> File:
    becomes = converted_name(sibling.rfilename)
    if sibling.lfs:
        return File(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256, None, becomes)
    if sibling.size is None or sibling.blob_id is None:
        raise HubUnavailable("the Hub lists no files of the model", status=502)
    return File(sibling.rfilename, sibling.size, None, sibling.blob_id, becomes)
