"""Which models no module is made for, and what to beware of in the others.

`check` raises ModelRefused with one of `reasons.REASONS`.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from common.contracts.generation import Accepted, Check
from common.errors import ModelRefused
from generator import requirements, vocabulary
from generator.configs import QUANTIZED
from generator.hub_tags import FORMER, TAGS, WHOLE, refusal_of
from generator.libraries import LIBRARIES, architectures, rows_of, table
from generator.reasons import refuse
from generator.snapshot import Snapshot
from generator.tasks import Task, with_vision

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
# mnpl and mrl are Mistral's, the last is Apple's: for research.
NON_COMMERCIAL = re.compile(
    r"(?:^|-)(?:nc|noncommercial|non-commercial|research|mnpl|mrl)(?:-|$)|^apple-amlr$"
)


def check(snapshot: Snapshot, accept: Collection[Accepted] = ()) -> tuple[Task, str, list[Check]]:
    """The model's task, its library, and what was looked at.

    Raises ModelRefused, but not for what is in `accept`.
    """
    name = task_of(snapshot)
    check_weights(snapshot)
    library = library_of(snapshot, name)
    task = LIBRARIES[library][name]
    check_architecture(snapshot, task, library)
    check_head(snapshot, task, library)
    if library == "transformers":
        task = check_vision(snapshot, task)
    check_tokenizers(snapshot, task, library)
    check_preparation(snapshot, task, library)
    return (
        task,
        library,
        [
            Check(name="safety", outcome="passed", message="safetensors weights, no custom code"),
            check_license(snapshot, accept),
            check_access(snapshot),
            check_scan(snapshot),
        ],
    )


CARD = "a copy of the model whose card says its pipeline_tag, one of " + ", ".join(
    tag for tag in TAGS if rows_of(tag)
)


# What sentence-transformers writes into the card of a sparse encoder, and says of one without.
DENSE = (None, "feature-extraction", "sentence-similarity")


def task_of(snapshot: Snapshot) -> str:
    """The pipeline tag, one that is served."""
    description = snapshot.description
    if description.disabled:
        raise ModelRefused("the Hub has disabled this model", reason="disabled")
    info = description.transformers_info
    name = description.pipeline_tag or (info.pipeline_tag if info else None)
    if snapshot.layout.encoder == "SparseEncoder" and name in DENSE:
        return "text-retrieval"
    if name is None and "Pooling" in snapshot.layout.classes.values():
        return "sentence-similarity"  # one vector per text is good for nothing else
    if name is None:
        raise refuse("the model does not say which task it is for", "task", CARD)
    if refusal := refusal_of(name):
        raise refuse(f"no module is made for {name}: {refusal.reason}", "task", refusal.help)
    if name in FORMER:
        raise refuse(
            f"the Hub no longer has the task {name}",
            "task",
            f"a copy of the model whose card says pipeline_tag: {FORMER[name]}",
        )
    if not rows_of(name):
        raise refuse("the model's task is none of the Hub's", "task", CARD)
    return name


def library_of(snapshot: Snapshot, task: str) -> str:
    """The library that loads the model: as its files are laid out, else as the Hub names it."""
    description = snapshot.description
    guessed = "transformers" if description.transformers_info else None
    named = description.library_name or guessed
    # A pipeline of diffusers is nothing else, and what has modules.json was saved by that library.
    library = snapshot.layout.library or named
    if library == "sentence-transformers" and task not in LIBRARIES[library]:
        # Its rankers and encoders are models of transformers, and the Hub may call them its own.
        library = guessed if named == library else named
    rows = rows_of(task)
    if library not in rows:
        raise refuse(
            f"the model is for another library than {', '.join(sorted(rows))}, which {task} "
            "modules run",
            "library",
            "a model of one of these",
        )
    return library


# What a repository without weights that the libraries load has in their place: what is said of it,
# the reason's word, and what would help. The first that is there is told.
INSTEAD = {
    "adapter": (
        "the model is an adapter to another model",
        "adapter",
        "the two merged into one, and pushed as safetensors",
    ),
    "gguf": (
        "the model has GGUF weights only, which need another runtime",
        "gguf-only",
        "the model that they were made from, with safetensors weights",
    ),
    "pickle": (
        "the model has pickled weights only, and loading those can run anyone's code",
        "pickle-only",
        "a revision with safetensors weights",
    ),
    "shards": (
        "the model's weights are in several files, without the index that says what is in which",
        "incomplete",
        "a revision with model.safetensors.index.json",
    ),
    "safetensors": (
        "the model's weights are laid out for another program, or are there as a variant only",
        "no-weights",
        "a copy that its library saved: model.safetensors, or model_index.json and its folders",
    ),
}
# One of these says how pictures and sounds are prepared for the model; timm's say it in theirs.
PREPARES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def check_weights(snapshot: Snapshot) -> None:
    if snapshot.weights is None:
        for kind, refusal in INSTEAD.items():
            if kind in snapshot.kinds:
                raise refuse(*refusal)
        raise refuse("the model has no weights", "no-weights", "a revision that has them")
    if not snapshot.config:
        raise refuse(
            "the model has no config.json", "config", "a copy that the library itself saved"
        )
    if snapshot.weights.is_packed or "quantized" in snapshot.kinds:
        raise refuse(*QUANTIZED)


# Rows whose models have the head of another.
HEADS = {"text-ranking": "text-classification", "zero-shot-classification": "text-classification"}


def check_architecture(snapshot: Snapshot, task: Task, library: str) -> None:
    if library == "diffusers":
        pipeline = snapshot.layout.pipeline
        if pipeline not in task.classes:
            # By its name only where it is one of the library's: an owner may write anything.
            shown = pipeline if pipeline in architectures()["diffusers"] else "this pipeline"
            raise ModelRefused(
                f"{task.name} modules do not run {shown}; they run {', '.join(task.classes)}",
                reason="architecture",
            )
        return
    if library == "timm":
        if snapshot.config.get("architecture") not in architectures()["timm"]:
            raise ModelRefused(
                "the timm that modules run has no such architecture", reason="architecture"
            )
        return
    kind = snapshot.config.get("model_type")
    # Its own class for the task is the library's business; a ranker's model is a classifier.
    known = HEADS.get(task.name, library) if library == "sentence-transformers" else task.name
    if kind not in architectures()[known]:
        raise refuse(_why_not(task, kind), "architecture", "a model of another architecture")
    if library == "sentence-transformers":
        check_encoder(snapshot, task)
        return
    if not task.classes:
        return
    named = snapshot.config.get("architectures")
    if not isinstance(named, list):
        raise refuse(
            "the model's config.json does not say which class it is of (architectures)",
            "architecture",
            "a copy that the library itself saved",
        )
    if not any(isinstance(name, str) and name.endswith(task.classes) for name in named):
        raise refuse(
            f"the model's architecture is not one for {task.name}, though its card says so",
            "architecture",
            "a model trained for that, or a card with the task that it was trained for",
        )


def check_encoder(snapshot: Snapshot, task: Task) -> None:
    """Whether the task's class of sentence-transformers is the one that the modules are for.

    Any of its classes loads any of them, and answers with numbers that mean nothing.
    """
    laid_out = snapshot.layout
    if laid_out.library is None:  # without modules.json each class knows what to make of a model
        return
    made = laid_out.encoder or "SentenceTransformer"
    asked = "SentenceTransformer" if task.name == "text-ranking" else task.classes[0]
    if made != asked:
        raise refuse(
            f"the model's modules.json is that of a {made}, and {task.name} modules run a "
            f"{task.classes[0]}",
            "architecture",
            "a model of that class, or a card with the task that the model is for",
        )


def check_head(snapshot: Snapshot, task: Task, library: str) -> None:
    """Whether the weights are there that the task is answered with; else chance would answer."""
    heads = table()["heads"].get(HEADS.get(task.name, task.name), {})
    known = snapshot.weights.names if snapshot.weights else None
    kind = snapshot.config.get("model_type")
    if library == "timm" or known is None or kind not in heads:
        return
    missing = [
        [name for name in head if not any(f".{kept}".endswith(f".{name}") for kept in known)]
        for head in heads[kind]
    ]
    if all(missing):
        raise refuse(
            f"the model's weights lack {missing[0][0]}, which {task.name} is answered with: it was "
            "not trained for that",
            "incomplete",
            "a model that was",
        )


def check_vision(snapshot: Snapshot, task: Task) -> Task:
    """The row with the family that has what the model sees with."""
    kind = snapshot.config.get("model_type")
    seen = sees_by_timm(snapshot.config)
    if not seen and kind not in table()["vision"][task.name]:
        return task
    family = with_vision(task.family)
    if seen and "timm" not in requirements.packages(family):
        raise refuse(
            f"the model's backbone is one of timm's, which modules for {task.name} do not install",
            "architecture",
            "a model with a backbone of transformers' own",
        )
    return replace(task, family=family)


def sees_by_timm(config: dict[str, Any]) -> bool:
    """As the configs of transformers read it: a backbone of its own goes first."""
    if isinstance(backbone := config.get("backbone_config"), dict):
        return backbone.get("model_type") in ("timm_backbone", "timm_wrapper")
    usual = config.get("model_type") in table()["timm"]
    return usual and config.get("use_timm_backbone") is not False


def check_tokenizers(snapshot: Snapshot, task: Task, library: str) -> None:
    """Whether every tokenizer that the task needs is whole, and can be read by the module."""
    if library == "timm" or (library == "transformers" and not task.tokenizes):
        return
    config = snapshot.config
    kind = config.get("model_type")
    if kind == "encoder-decoder":  # its tokenizer is the encoder's
        kind = config.get("encoder", {}).get("model_type")
    for folder, named in snapshot.layout.tokenizers.items():
        read = snapshot.tokenizers.get(folder, {})
        name = named or read.get("tokenizer_class") or config.get("tokenizer_class")
        vocabulary.check(snapshot.names(folder), kind, name, read, task.family, where=folder)


def check_preparation(snapshot: Snapshot, task: Task, library: str) -> None:
    """Whether it is said how the pictures or sounds that the task takes are prepared."""
    if library != "transformers" or task.takes not in ("image", "video", "audio"):
        return
    if task.family == "documents":  # its models read words and their places, not the picture
        return
    own = snapshot.config.get("model_type") == "timm_wrapper"
    if not own and snapshot.names("").isdisjoint(PREPARES):
        raise refuse(
            f"the model does not say how an input is prepared for it: none of {', '.join(PREPARES)}"
            " is there",
            "incomplete",
            "a revision, or a copy of the model, that has it",
        )


def _why_not(task: Task, kind: Any) -> str:
    """The library may well have it: modules run what they are proven to."""
    package = table()["absent"].get(task.name, {}).get(kind) if isinstance(kind, str) else None
    if package:
        return (
            f"models of this architecture need {package}, which modules for {task.name} do not "
            "install"
        )
    only = f": they run {', '.join(task.classes)}" if set(task.classes) & WHOLE else ""
    return f"modules for {task.name} do not run models of this architecture{only}"


def licenses_of(snapshot: Snapshot) -> list[str]:
    """The licences' identifiers. Free text is never handed on: only what looks like one."""
    return [said for said in snapshot.description.licenses if LICENSE.fullmatch(said)]


def license_of(snapshot: Snapshot) -> str | None:
    """The only licence; None where there is none, or a choice."""
    named = licenses_of(snapshot)
    return named[0] if len(named) == 1 else None


def check_license(snapshot: Snapshot, accept: Collection[Accepted]) -> Check:
    named = licenses_of(snapshot)
    own = snapshot.description.own_license
    if LICENSE.fullmatch(own):
        named = [own if name == "other" else name for name in named]
    shown = ", ".join(named)
    if not named:
        message = "the model names no licence: ask its owner before you use it"
    elif any(map(NON_COMMERCIAL.search, named)):
        message = f"the licence {shown} forbids commercial use"
        if "license" not in accept:
            raise refuse(
                message,
                "license",
                "a model of another licence, or, where your use is none or its owner allows it, "
                'accept: ["license"]',
            )
    elif "other" in snapshot.description.licenses or "unknown" in named:
        called = "" if named == ["other"] or "unknown" in named else f" ({shown})"
        message = f"the model has a licence of its own{called}: read it before you use it"
    else:
        return Check(name="license", outcome="passed", message=shown)
    return Check(name="license", outcome="warning", message=message)


def check_access(snapshot: Snapshot) -> Check:
    if snapshot.description.gated or snapshot.description.private:
        return Check(
            name="access",
            outcome="warning",
            message="the model is gated or private: building the image needs a token with access",
        )
    return Check(name="access", outcome="passed", message="public")


def check_scan(snapshot: Snapshot) -> Check:
    """What the Hub's own scanners say: information, since they can be deceived."""
    found = snapshot.description.unsafe_files
    if found:
        return Check(
            name="scan",
            outcome="warning",
            message=f"the Hub's scanners report {found} unsafe files; "
            "the module uses none but those that its module.yaml lists",
        )
    return Check(name="scan", outcome="passed", message="the Hub's scanners report nothing")
