"""Reasons to refuse a model, and warnings about one that is served.

`check` raises ModelRefused with one of `reasons.REASONS`.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from common.contracts.generation import Accepted, Check
from generator import adapters, requirements, setfit, vocabulary
from generator.completeness import check_added_tokens, check_tensors
from generator.configs import quantized
from generator.instead import INSTEAD
from generator.layout import OF_WORDS, ROLES, late_interaction
from generator.licenses import check_license
from generator.notices import check_access, check_conversion, check_label_names, check_scan
from generator.reasons import refuse
from generator.recognition import check_library, library_of, named_tag, task_of
from generator.snapshot import Snapshot
from models.families import stack_of, with_packing, with_vision
from models.origins import NATIVE, PAINTS, POPULAR, own_code_help
from models.packing import TITLES
from models.tables import architectures, table
from models.tasks import LIBRARIES, Task
from models.tasks.diffusion import GUIDED_BY_TEXT, distilled
from models.tasks.pairs import compares, of_pairs
from models.tasks.sentences import CLASSIFIES, RANKINGS, SETFIT, WRITES

# The class of ColBERT's own checkpoints.
LATE_INTERACTION = "HF_ColBERT"
# Libraries whose models load from safetensors that were converted name by name.
OF_SENTENCES = frozenset(("sentence-transformers", SETFIT))
CONVERTED = OF_SENTENCES | {"transformers"}
# Families that encode a query, and what it is compared with, each by its own route.
COMPARING = frozenset(("sentence_similarity", "sparse_retrieval"))
# Pipeline components that are often submitted as whole pipelines, shown by name.
PARTS_OF_PIPELINES = frozenset(
    ("AutoencoderKL", "ControlNetModel", "FluxControlNetModel", "SD3ControlNetModel")
) | {"UNet2DConditionModel", "MotionAdapter", "T2IAdapter"}
# What other parts are, by what their classes' names have.
KINDS_OF_PARTS = {
    "a ControlNet": "ControlNet",
    "an autoencoder": "Autoencoder",
    "an adapter": "Adapter",
    "a denoiser": "UNet",
    "a transformer": "Transformer",
    "a scheduler": "Scheduler",
}


def check(snapshot: Snapshot, accept: Collection[Accepted] = ()) -> tuple[Task, list[Check]]:
    """Return the task row that serves the model, and its checks.

    Raises ModelRefused, except for reasons listed in `accept`.
    """
    named_tag(snapshot)
    check_library(snapshot)
    check_interaction(snapshot)
    check_weights(snapshot)
    check_code(snapshot)
    setfit.check(snapshot.kinds, snapshot.config)
    name = task_of(snapshot)
    library = library_of(snapshot, name)
    task = LIBRARIES[library][name]
    check_architecture(snapshot, task, library)
    check_tensors(snapshot, task, library)
    check_labels(snapshot, task)
    if task.family == "text_classification" and compares(snapshot.config):
        task = of_pairs(task)
    if library == "transformers":
        task = check_vision(snapshot, task)
    task = distilled(task, snapshot.layout.pipeline, snapshot.id)
    check_tokenizers(snapshot, task, library)
    check_preparation(snapshot, task, library)
    check_pickles(snapshot, library)
    task = adapters.check(snapshot, check_packing(snapshot, task))
    return (
        task,
        [
            *check_source(snapshot, accept),
            *check_conversion(snapshot),
            *check_added_tokens(snapshot),
            *check_label_names(snapshot, task),
        ],
    )


def check_source(snapshot: Snapshot, accept: Collection[Accepted]) -> list[Check]:
    """Check the licence of the repository, who may read it, and what the Hub's scanners found."""
    return [
        check_license(snapshot, accept),
        *([check_license(snapshot.adapter, accept)] if snapshot.adapter else []),
        check_access(snapshot),
        check_scan(snapshot),
    ]


# Files that configure preprocessing of images and audio; timm has that in its config.json.
PREPARES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def check_weights(snapshot: Snapshot) -> None:
    """Raise ModelRefused unless the repository is a complete model with loadable weights."""
    base = snapshot.description.base
    if part := snapshot.config.get("_class_name"):
        whole = f"the whole pipeline that it belongs to, such as {POPULAR[PAINTS]}"
        raise refuse(
            f"the repository has only a part of a diffusers pipeline ({_part(str(part))})",
            "incomplete",
            f"{base}, for which it was made" if base else whole,
        )
    if snapshot.weights is None:
        for kind, (message, reason, help) in INSTEAD.items():
            if kind in snapshot.kinds:
                raise refuse(message, reason, made_from(base) if base else help)
        raise refuse("the model has no weights", "no-weights", "a revision that has them")
    if wrapper := snapshot.weights.wrapper:
        raise refuse(
            f"the weights were saved with the training's wrapper: each name begins with {wrapper}",
            "incomplete",
            "a copy that was saved without it, such as by unwrap_model(model).save_pretrained()",
        )
    if "adapted" in snapshot.kinds:
        raise refuse(
            "the repository has an adapter beside its base's weights; answers would ignore it",
            "adapter",
            "the two merged into one, and pushed as safetensors",
        )
    if by_words := OF_WORDS.intersection(snapshot.layout.classes.values()):
        raise refuse(
            f"the model splits texts into words by itself ({min(by_words)}), which modules do not",
            "architecture",
            "a model with a transformer, or with a table of its tokenizer's tokens",
        )
    if not snapshot.config and not snapshot.layout.is_static:
        raise refuse(
            "the model has no config.json", "config", "a copy that the library itself saved"
        )
    packed = snapshot.config.get("packing", {})
    if "kind" not in packed and (
        packed or snapshot.weights.is_packed or "quantized" in snapshot.kinds
    ):
        raise quantized(packed.get("title"), *([made_from(base)] if base else []))


def _part(name: str) -> str:
    """Return what a class of diffusers is; its name is shown only if it is known."""
    if name in PARTS_OF_PIPELINES:
        return name
    kinds = (one for one, sign in KINDS_OF_PARTS.items() if sign in name)
    return next(kinds, "no model that answers by itself")


def made_from(base: str) -> str:
    return f"{base}, from which it was made"


def check_code(snapshot: Snapshot) -> None:
    """Raise ModelRefused if inference needs code of the model's author."""
    kind = snapshot.config.get("model_type")
    offered = [(config, kind) for config in (snapshot.config, *snapshot.tokenizers.values())]
    offered += [(part, part.get("model_type")) for part in snapshot.config.get("components", ())]
    if kinds := [of for config, of in offered if config.get("own_code") and of not in NATIVE]:
        raise refuse(
            "config.json requires code of the model's author, which modules do not run",
            "custom-code",
            own_code_help(kinds[0]),
        )


def check_interaction(snapshot: Snapshot) -> None:
    """Refuse a model of a text's tokens (ColBERT), whose mean vector would be no answer."""
    named = snapshot.config.get("architectures")
    of_texts = snapshot.config.get("model_type") in table()["bodies"]
    if (isinstance(named, list) and LATE_INTERACTION in named) or "colbert" in snapshot.kinds:
        raise late_interaction()
    # With modules.json, its modules say what the model does.
    if snapshot.description.is_late and of_texts and snapshot.layout.library is None:
        raise late_interaction()


def check_architecture(snapshot: Snapshot, task: Task, library: str) -> None:
    """Raise ModelRefused unless the task's modules run models of this architecture."""
    if library == "diffusers":
        check_pipeline(snapshot, task)
        return
    if library == "timm":
        if snapshot.config.get("architecture") not in architectures()["timm"]:
            raise refuse(
                "the pinned timm does not have this architecture",
                "architecture",
                "a model of another architecture",
            )
        return
    if snapshot.layout.is_static:
        return
    kind, named = (snapshot.config.get(name) for name in ("model_type", "architectures"))
    # sentence-transformers chooses the class itself, except for rankers: classifiers, or writers.
    head = WRITES if snapshot.layout.is_generative_ranker else task.head
    known = architectures()[
        (head or "sentence-transformers") if library in OF_SENTENCES else task.tag
    ]
    routes = [part.get("model_type") for part in snapshot.config.get("components", ())]
    if unknown := [one for one in (kind, *routes) if one not in known]:
        raise refuse(_why_not(task, unknown[0]), "architecture", of_another_architecture(task.tag))
    if library in OF_SENTENCES:
        check_encoder(snapshot, task)
    elif task.classes:
        check_class(task, kind, named)


def of_another_architecture(tag: str) -> str:
    popular = f", such as {POPULAR[tag]}" if tag in POPULAR else ""
    return f"a model of another architecture{popular}"


def check_pipeline(snapshot: Snapshot, task: Task) -> None:
    """Raise ModelRefused unless the task's modules run a pipeline of diffusers."""
    pipeline = snapshot.layout.pipeline
    if pipeline not in task.classes:
        # Named only if the library has it: an owner may write anything.
        shown = pipeline if pipeline in architectures()["diffusers"] else "this pipeline"
        raise refuse(
            f"{task.tag} modules do not run {shown}",
            "architecture",
            f"a model for {' or '.join(task.classes)}",
        )
    if pipeline in GUIDED_BY_TEXT and snapshot.config["denoiser"].get("guidance_embeds"):
        raise refuse(
            f"the model was distilled with guidance as its input, and modules of {pipeline} "
            "guide by a second text",
            "architecture",
            "the model that it was distilled from",
        )


def check_class(task: Task, kind: Any, named: Any) -> None:
    """Raise ModelRefused unless config.json names a class that answers the task."""
    if named is None and (task.generates or kind in table()["heads"].get(task.head_tag, {})):
        return  # the only class for the task, or one that the weights determine
    if not isinstance(named, list):
        help = "a copy that the library itself saved"
        raise refuse("the model's config.json lacks `architectures`", "architecture", help)
    if not any(isinstance(name, str) and name.endswith(task.classes) for name in named):
        causal = task.tag in RANKINGS and any(str(name).endswith("ForCausalLM") for name in named)
        if causal:
            raise refuse(
                "the model ranks by the word that it would write next, and its files lack the "
                "prompt for that, without which its scores mean nothing",
                "architecture",
                "a revision with modules.json, as sentence-transformers saves a ranker and its "
                "prompt (Qwen/Qwen3-Reranker-0.6B has one at refs/pr/11), or a ranker with a score "
                f"of its own, such as {POPULAR[task.tag]}",
            )
        raise refuse(
            f"the model's architecture does not support {task.tag}, although its card says so",
            "architecture",
            "a model trained for that, or a card with the task that it was trained for",
        )


def check_labels(snapshot: Snapshot, task: Task) -> None:
    """Raise ModelRefused if the labels of the model's head do not fit the task."""
    config = snapshot.config
    count, labels = config.get("num_labels"), config.get("labels")
    if task.tag in RANKINGS and isinstance(count, int) and count != 1:
        raise refuse(
            f"the model has {count} labels; a ranker has one score",
            "architecture",
            f"a ranker with one logit, or a card with pipeline_tag: {CLASSIFIES[0]}",
        )
    if task.family == "zero_shot_text" and not any(
        str(label).lower().startswith("entail") for label in labels or ()
    ):
        raise refuse(
            "zero-shot classification needs a label `entailment`, which the model lacks",
            "architecture",
            "a model trained for natural language inference, with its labels in config.json",
        )


def check_encoder(snapshot: Snapshot, task: Task) -> None:
    """Raise ModelRefused unless modules.json was written for the task's class.

    Every class of sentence-transformers loads any modules, but its output is then meaningless.
    """
    laid_out = snapshot.layout
    if laid_out.library is None:  # without modules.json each class builds its own modules
        return
    encoder = laid_out.encoder or "SentenceTransformer"
    expected = "SentenceTransformer" if task.classes == ("CrossEncoder",) else task.classes[0]
    if encoder != expected:
        raise refuse(
            f"the model's modules.json is that of a {encoder}, and {task.tag} modules run a "
            f"{task.classes[0]}",
            "architecture",
            "a model of that class, or a card with the task that the model is for",
        )
    if laid_out.unrouted and task.family in COMPARING:
        raise refuse(
            f"the model's router has no route for a {laid_out.unrouted[0]}, and {task.tag} modules "
            "encode a query and documents",
            "architecture",
            f"a router with the routes {' and '.join(ROLES)}",
        )


def check_vision(snapshot: Snapshot, task: Task) -> Task:
    """Return the task's row, with a stack that has torchvision or timm if the model needs it."""
    kind = snapshot.config.get("model_type")
    seen = sees_by_timm(snapshot.config)
    if not seen and kind not in table()["vision"][task.tag]:
        return task
    stack = with_vision(stack_of(task))
    if seen and "timm" not in requirements.packages(stack):
        raise refuse(
            f"the model's backbone needs timm, which modules for {task.tag} do not install",
            "architecture",
            "a model with a backbone of transformers' own",
        )
    return replace(task, stack=stack)


def check_packing(snapshot: Snapshot, task: Task) -> Task:
    """Return the task's row, with a stack that loads packed weights if the model has them."""
    packed = snapshot.config.get("packing")
    if packed is None:
        return task
    stack = with_packing(stack_of(task))
    causal = task.family == "text_generation"
    if stack == stack_of(task) or (packed["kind"] in ("awq", "gptq") and not causal):
        base = snapshot.description.base
        help = made_from(base) if base else "a model whose weights are not quantized"
        raise quantized(TITLES[packed["kind"]], help, task.tag)
    return replace(task, stack=stack)


def sees_by_timm(config: dict[str, Any]) -> bool:
    """Return whether the backbone is one of timm's, by the model's config or by default."""
    if isinstance(backbone := config.get("backbone_config"), dict):
        return backbone.get("model_type") in ("timm_backbone", "timm_wrapper")
    usual = config.get("model_type") in table()["timm"]
    return usual and config.get("use_timm_backbone") is not False


def check_tokenizers(snapshot: Snapshot, task: Task, library: str) -> None:
    """Raise ModelRefused unless each tokenizer of the task is complete and readable."""
    if library == "timm" or (library == "transformers" and not task.tokenizes):
        return
    config = snapshot.config
    kind = config.get("model_type")
    if kind == "encoder-decoder":  # its tokenizer is the encoder's
        kind = config.get("encoder", {}).get("model_type")
    for folder, named in snapshot.layout.tokenizers.items():
        read = snapshot.tokenizers.get(folder, {})
        name = named or read.get("tokenizer_class") or config.get("tokenizer_class")
        vocabulary.check(snapshot.names(folder), kind, name, read, stack_of(task), where=folder)


def check_preparation(snapshot: Snapshot, task: Task, library: str) -> None:
    """Raise ModelRefused if the preprocessor config of an image or audio model is missing."""
    if library != "transformers" or task.takes not in ("image", "video", "audio"):
        return
    if task.family == "document_qa":  # its models read words and their boxes, not pixels
        return
    own = snapshot.config.get("model_type") == "timm_wrapper"
    if not own and snapshot.names("").isdisjoint(PREPARES):
        raise refuse(
            f"the model has no preprocessor config: none of {', '.join(PREPARES)} is there",
            "incomplete",
            "a revision, or a copy of the model, that has it",
        )


def _why_not(task: Task, kind: Any) -> str:
    """Explain why modules for a task do not run an architecture."""
    package = table()["absent"].get(task.tag, {}).get(kind) if isinstance(kind, str) else None
    if package:
        return (
            f"models of this architecture need {package}, which modules for {task.tag} do not "
            "install"
        )
    only = f": they run {', '.join(task.classes)}" if task.named_classes else ""
    return f"modules for {task.tag} do not run models of this architecture{only}"


def check_pickles(snapshot: Snapshot, library: str) -> None:
    """Raise ModelRefused if the library does not load pickled weights once they are converted."""
    if snapshot.is_pickled and (library not in CONVERTED or snapshot.config.get("packing")):
        raise refuse(
            "the model has pickled weights only, and those of its kind are not converted",
            "pickle-only",
            "a revision with safetensors weights",
        )
