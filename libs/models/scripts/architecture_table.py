"""Write the architectures of the pinned transformers for each task, and the packages they need.

    python libs/models/scripts/architecture_table.py

The generator itself runs without transformers. Every model that has a head of its own for a task is
made once, without memory, which takes a minute; so the file says what it was made from, and a test
whether that is still so.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES as IMAGE
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from hub import vision
from models import config as configs
from models.config import PARTS, SIZES
from models.families import STACKS, stack_of, with_vision
from models.tables import tokenizers
from models.tasks import LIBRARIES
from models.tokenizers import class_of

sys.path.insert(0, str(Path(__file__).parent))
from body_table import bodies, labelled, outputs
from precision_table import kept_in_float32, without_sdpa
from tokenizer_table import as_lines

FILE = Path(__file__).parents[1] / "models/architectures.json"
# The number of a layer or of an expert, by which tensors of one kind differ.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
TASKS = LIBRARIES["transformers"]
# Packages that some architectures' processors ask for, and that no family installs.
ABSENT = {"voxtral": "mistral-common", "voxtral_realtime": "mistral-common"}


def of_the_libraries() -> dict[str, dict[str, Any]]:
    """Return the whole table.

    `served`: the values of `model_type` that can be loaded, by task, and timm's architectures.

    `vision`: by task, those of them that need torchvision or timm. `absent`: by task, those that a
    module lacks a package for, with its name. `timm`: those whose backbone is one of timm's unless
    their config says otherwise. `heads`: by task, the weights that each class of an architecture
    has for it alone; `labels`: by task, those of them that have a row for each label. `bodies` and
    `outputs`: the names of the embeddings, of the list of layers, and of the weights that write
    tokens (`body_table`). `configs`: by `model_type`, what a config means that says nothing.
    `float32`: by `model_type` or diffusers' class, parts that are kept in float32 (`float16`: where
    the rest is in that format, `half`: in either of 16 bits). `eager`: those without a fused
    attention.
    """
    known = {task: model_types(task) for task in sorted(TASKS)}
    needed = {
        task: {kind: package for kind in kinds if (package := missing_package(task, kind))}
        for task, kinds in known.items()
    }
    vision = {
        task: [kind for kind, package in kinds.items() if package in installed(task)]
        for task, kinds in needed.items()
    }
    absent = {
        task: {kind: package for kind, package in kinds.items() if kind not in vision[task]}
        for task, kinds in needed.items()
    }
    served = {
        task: [kind for kind in kinds if kind not in absent[task]] for task, kinds in known.items()
    }
    heads = {
        task: {kind: names for kind in served[task] if all(names := heads_of(task, kind))}
        for task in HEADED
    }
    return {
        "made_from": {"digest": recipe()},
        "served": served
        | {"timm": of_timm(), "diffusers": of_diffusers()}
        | {"sentence-transformers": sorted({*served["feature-extraction"], *HALVES})},
        "vision": vision,
        "absent": absent,
        "heads": heads,
        "labels": {task: labelled(class_names(task)) for task in LABELLED},
        "bodies": bodies(reads_texts(), bare, built),
        "outputs": outputs(class_names("text-generation"), built),
        "timm": dict.fromkeys(over_timm(), True),
        "float32": kept_in_float32(classes_of),
        "eager": dict.fromkeys(without_sdpa(classes_of), True),
        "configs": {kind: meant(kind) for kind in sorted(CONFIG_MAPPING_NAMES)},
    }


def recipe() -> str:
    """Hash everything that the file depends on: this program, rows, sizes, libraries."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in ("precision_table.py", "body_table.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    digest.update(repr((SIZES, PARTS)).encode())
    for task in TASKS.values():
        needs = STACKS[stack_of(task)]
        facts = (task.tag, task.takes, task.classes, task.auto_classes, task.texts, needs)
        digest.update(repr(facts).encode())
    for library in ("transformers", "diffusers", "timm"):
        [distribution] = metadata.distributions(name=library, path=[*sys.path, str(vision.FOLDER)])
        digest.update(f"{library} {distribution.version}".encode())
    return digest.hexdigest()[:16]


def meant(kind: str) -> dict[str, Any]:
    """Return the defaults of a `model_type`: `sizes`, sub-configs (`parts`), aliases (`names`).

    Sizes that follow from others are left out, since they do so from those that a model names.
    """
    chosen = getattr(transformers, CONFIG_MAPPING_NAMES[kind])
    sizes = {
        field.name: field.default
        for field in dataclasses.fields(chosen)
        if field.name in SIZES and field.default is not None
    }
    parts = {
        name: {"model_type": spec.model_type or spec.config_class.model_type, **spec.init_kwargs}
        for name, spec in chosen.sub_configs_defaults.items()
        if name in PARTS and name != "backbone_config"
    }
    defaults = {
        "sizes": configs.reduce(sizes) | pattern(chosen),
        "parts": {name: configs.reduce(part) for name, part in parts.items()},
        "names": {also: name for also, name in chosen.attribute_map.items() if also in SIZES},
    }
    return {name: part for name, part in defaults.items() if part}


def pattern(chosen: Any) -> dict[str, list[str]]:
    """Return the repeating pattern of the layers' kinds of attention, {} if all are the same."""
    try:
        config = chosen()
        if getattr(config, "layer_types", None) is None:
            return {}
        kinds = get_layer_types_and_kwargs(config)[0]
    except Exception:  # noqa: BLE001  (some have no default, and raise whatever they like)
        return {}
    for period in range(1, len(kinds) + 1):
        if all(kind == kinds[place % period] for place, kind in enumerate(kinds)):
            return {"layer_types": kinds[:period]}
    return {}


@cache
def classes_of(kind: str) -> list[Any]:
    """Return the library's classes of a `model_type` that some task loads, and the bare one."""
    names = {name for task in TASKS for name in class_names(task).get(kind, ())}
    if kind in kinds(""):
        names.add(bare(kind))
    return [chosen for name in sorted(names) if (chosen := loaded(name)) is not None]


def loaded(name: str) -> Any:
    """Return a class of the library; None if it, or a package that it needs, is missing."""
    try:
        chosen = getattr(transformers, name)
        return chosen if hasattr(chosen, "base_model_prefix") else None
    except (AttributeError, ImportError):
        return None


# Architectures of which sentence-transformers loads only the encoder.
HALVES = ("longt5", "mt5", "t5", "umt5")


def installed(task: str) -> tuple[str, ...]:
    """Return all packages that a module of the task may install."""
    return STACKS[with_vision(stack_of(TASKS[task]))]


def over_timm() -> list[str]:
    """Return the models whose default config has a backbone of timm, and timm's own."""
    kinds_over_timm = {"timm_backbone", "timm_wrapper"}
    for kind, name in CONFIG_MAPPING_NAMES.items():
        if hasattr(chosen := getattr(transformers, name), "backbone_config"):
            backbone = chosen().backbone_config
            if getattr(backbone, "model_type", None) in kinds_over_timm:
                kinds_over_timm.add(kind)
    return sorted(kinds_over_timm)


def of_diffusers() -> list[str]:
    return sorted(name for name in dir(diffusers) if name.endswith("Pipeline"))


def of_timm() -> list[str]:
    """List timm's models, in a separate process, since that one alone has torchvision."""
    done = subprocess.run(
        [sys.executable, "-c", "import json, timm; print(json.dumps(timm.list_models()))"],
        env={**os.environ, **vision.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    names: list[str] = json.loads(done.stdout)
    return names


def model_types(task: str) -> list[str]:
    """Return the `model_type` values that the task's row accepts, by their class and inputs."""
    row = TASKS[task]
    accepted = set(class_names(task))
    if task == "video-text-to-text":
        accepted &= set(VIDEO_PROCESSOR_MAPPING_NAMES)
    if row.family == "multimodal":
        accepted -= SPEAKS
    if task == "audio-text-to-text":
        accepted -= kinds("ImageTextToText")
    if row.takes in ("text", "question") and row.family != "multimodal":
        accepted -= kinds("TableQuestionAnswering") | SHOWN
        if row.family not in (
            "text_generation",
            "text_to_audio",
        ):  # audio models take a text together with the audio, and none without it
            accepted -= set(FEATURE_EXTRACTOR_MAPPING_NAMES)
            accepted = {
                kind for kind in accepted if "audio_config" not in meant(kind).get("parts", {})
            }
        accepted = {kind for kind in accepted if reads_plain_text(kind)}
    if task == "feature-extraction":
        accepted = {kind for kind in accepted & reads_alone() if not wants_two_texts(kind)}
    if task == "image-feature-extraction":
        accepted = (accepted & set(IMAGE)) - kinds("VideoClassification")
    if row.takes == "image" and not row.texts:
        names = class_names(task)
        accepted = {
            kind for kind in accepted if main_input(names[kind][0]) in (None, "pixel_values")
        }
    return sorted(accepted)


@cache
def class_names(task: str) -> dict[str, list[str]]:
    """Return the classes that the task's row accepts, by `model_type`."""
    row = TASKS[task]
    names_by_type: dict[str, list[str]] = {}
    for chosen in auto_classes(task):
        if not hasattr(chosen, "_model_mapping"):
            # A model's own class, where the library has none for the task.
            names_by_type[chosen.config_class.model_type] = [chosen.__name__]
            continue
        for kind, names in chosen._model_mapping._model_mapping.items():
            for name in (names,) if isinstance(names, str) else names:
                if not row.classes or name.endswith(row.classes):
                    names_by_type.setdefault(kind, []).append(name)
    return names_by_type


# Qwen2.5-Omni loads its voices from a pickled file, and is not built without it.
SPEAKS = {"qwen2_5_omni"}
# LXMERT answers questions about image features that another model has extracted.
SHOWN = {"lxmert"}


def kinds(head: str) -> set[str]:
    chosen = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")
    return set(chosen._model_mapping._model_mapping)


def reads_plain_text(kind: str) -> bool:
    return bool(tokenizers()["classes"][class_of(kind, None)]["text"])


def reads_alone() -> set[str]:
    """Return the models whose only input is text."""
    heads = ("CausalLM", "MaskedLM", "SequenceClassification", "TokenClassification")
    candidates = set().union(*map(kinds, (*heads, "QuestionAnswering", "TextEncoding")))
    candidates -= {*IMAGE_PROCESSOR_MAPPING_NAMES, *FEATURE_EXTRACTOR_MAPPING_NAMES}
    return {kind for kind in candidates & kinds("") if main_input(bare(kind)) == "input_ids"}


def reads_texts() -> set[str]:
    """Return the models that read texts alone, and may have a decoder beside their encoder."""
    candidates = (reads_alone() | kinds("Seq2SeqLM")) & kinds("")
    return candidates - {*IMAGE_PROCESSOR_MAPPING_NAMES, *FEATURE_EXTRACTOR_MAPPING_NAMES}


def bare(kind: str) -> str:
    """Return the name of the model's class without a head."""
    names = transformers.AutoModel._model_mapping._model_mapping[kind]
    return str(names if isinstance(names, str) else names[0])


def main_input(name: str) -> Any:
    """Return the name of a class's main input; None if a package that it needs is missing."""
    try:
        return getattr(transformers, name).main_input_name
    except ImportError:
        return None


def wants_two_texts(kind: str) -> bool:
    """Return whether the model is an encoder-decoder that needs explicit decoder inputs."""
    chosen = getattr(transformers, bare(kind))
    source = inspect.getsource(chosen.forward)
    return bool(chosen.config_class().is_encoder_decoder) and "shift_tokens_right" not in source


# Tasks whose head adds only a few weights to the pretrained model.
HEADED = (
    *("text-classification", "token-classification", "question-answering", "multiple-choice"),
    *("fill-mask", "image-classification", "audio-classification"),
)
LABELLED = (
    *("text-classification", "token-classification", "image-classification"),
    "audio-classification",
)
# More names than this are not a head but the whole model again, under other names.
MAX_NAMES = 6


def heads_of(task: str, kind: str) -> list[list[str]]:
    """Return the names of the head's weights, for each class of the task."""
    return [head(name) for name in class_names(task)[kind]]


def head(name: str) -> list[str]:
    """Return the names of a head's weights as in the model's files, numbers as `*`.

    Tied weights are left out, and so are those that older files name differently.
    """
    model = built(name)
    if not isinstance(model, torch.nn.Module):
        return []
    tied = set(model.all_tied_weights_keys)
    renamed = [
        re.sub(r"\W", "", text)
        for conversion in get_model_conversion_mapping(model, add_legacy=False)
        for text in conversion.target_patterns
    ]
    weights = [
        NUMBER.sub("*", name)
        for name in model.state_dict()
        if not name.startswith(f"{model.base_model_prefix}.")
        and name.endswith(".weight")
        and "norm" not in name.lower()
        and name not in tied
        and not any(text and text in re.sub(r"\W", "", name) for text in renamed)
    ]
    return sorted(set(weights)) if len(weights) <= MAX_NAMES else []


@cache
def built(name: str) -> Any:
    """Build a model of default sizes on the meta device; return the error if that fails."""
    try:
        chosen = getattr(transformers, name)
        with torch.device("meta"):
            return chosen(chosen.config_class())
    except Exception as error:  # noqa: BLE001  (some have no default, and raise whatever they like)
        return error


def auto_classes(task: str) -> tuple[Any, ...]:
    return tuple(getattr(transformers, name) for name in TASKS[task].auto_classes)


def missing_package(task: str, kind: str) -> str | None:
    """Return the package that the model or its processor needs and the family does not install."""
    if TASKS[task].family == "multimodal" and kind in ABSENT:
        return ABSENT[kind]
    error = built(class_names(task)[kind][0]) if task in HEADED else None
    if isinstance(error, ImportError):
        needed = re.search(r"requires the (\w+) library", str(error))
        assert needed, error
        # A backbone of timm's is the config's choice: the table's `timm` lists these.
        if needed[1] != "timm" or kind == "timm_wrapper":
            return needed[1]
    sees = TASKS[task].takes in ("image", "video")
    # Video models without a video processor of their own need torchvision.
    usual: dict[str, Any] = {} if TASKS[task].takes == "video" else {"pil": None}
    readers = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, usual)
    if sees and "torchvision" not in STACKS[stack_of(TASKS[task])] and "pil" not in readers:
        return "torchvision"
    return None


if __name__ == "__main__":
    FILE.write_text(as_lines(of_the_libraries()), encoding="utf-8")
